#include "stub.h"

#include <algorithm>
#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "backend.h"
#include "error.h"

namespace {

// A forward that was begun, and hasn't been let go.
struct Gate {
  std::mutex mutex;
  std::condition_variable changed;
  bool begun = false;

  void set(bool value) {
    const std::scoped_lock lock(mutex);
    begun = value;
    changed.notify_all();
  }
  void wait(bool value) {
    std::unique_lock lock(mutex);
    changed.wait(lock, [&] { return begun == value; });
  }
};

Gate gate;

}  // namespace

void stub::wait_for_forward() { gate.wait(true); }
void stub::let_go() { gate.set(false); }

namespace wanrt::impl {

namespace {

class Stub final : public Backend {
 public:
  explicit Stub(const Folder& folder) : name_(folder.manifest.name) {}

  void bind_input(const std::string& name, const View& view) override {
    if (name_ == stub::kFailsToBind && name == "x") {
      throw Error(WANRT_ENGINE_ERROR, "the stub can't bind");
    }
    inputs_[name] = view;
  }

  void bind_output(const std::string& name, const View& view) override {
    static_cast<void>(name);
    output_ = view;
  }

  void make_output(const std::string& name) override {
    static_cast<void>(name);
    output_ = View();
  }

  View made_output(std::size_t index) override {
    static_cast<void>(index);
    const auto rows = static_cast<std::int64_t>(made_.size());
    return {WANRT_FP32, WANRT_HOST, {rows}, made_.data(), made_.size() * sizeof(float)};
  }

  void run(bool complete) override {
    static_cast<void>(complete);
    if (name_ == stub::kFailsToRun) {
      throw Error(WANRT_ENGINE_ERROR, "the stub can't run");
    }
    if (name_ == stub::kWaits) {
      gate.set(true);
      gate.wait(false);
    }
    compute(inputs_.at("x"));
    if (output_.data != nullptr) {
      std::copy(made_.begin(), made_.end(), values(output_));
    }
  }

  Made make_outputs() override {
    const View& prompt = inputs_.at("prompt");
    compute(prompt);
    auto kept = std::make_shared<std::vector<float>>(made_);
    View view = prompt;
    view.data = kept->data();
    return {{{"k", view}}, std::move(kept)};
  }

 private:
  // What was made: a tensor, and to each of its values the sum of what else is bound.
  void compute(const View& x) {
    float sum = 0;
    for (const auto& [name, view] : inputs_) {
      if (name == "x" || name == "prompt" || name == "timestep" || name == "strengths") {
        continue;
      }
      const bool down = name.find("lora_A") != std::string::npos;
      for (std::size_t i = 0; i < size(view); ++i) {
        const std::size_t row = i / static_cast<std::size_t>(view.shape[1]);
        sum += values(view)[i] * (down ? values(inputs_.at("strengths"))[row] : 1);
      }
    }
    made_.assign(values(x), values(x) + size(x));
    std::for_each(made_.begin(), made_.end(), [&](float& value) { value += sum; });
  }

  static float* values(const View& view) { return static_cast<float*>(view.data); }
  static std::size_t size(const View& view) { return view.bytes / sizeof(float); }

  std::string name_;
  std::map<std::string, View> inputs_;
  View output_;
  std::vector<float> made_;
};

}  // namespace

std::unique_ptr<Backend> open_backend(const Folder& folder, const Graph& graph,
                                      const Options& options) {
  static_cast<void>(graph);
  static_cast<void>(options);
  if (folder.manifest.name == stub::kFailsToOpen) {
    throw Error(WANRT_UNSUPPORTED, "the stub can't open", "try another");
  }
  if (folder.manifest.name == stub::kThrows) {
    throw 7;  // NOLINT(hicpp-exception-baseclass): what no library should throw
  }
  return std::make_unique<Stub>(folder);
}

const char* list_backends() { return "stub"; }

}  // namespace wanrt::impl
