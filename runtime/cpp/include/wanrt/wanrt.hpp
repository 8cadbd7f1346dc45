// wanrt.h for C++17: handles that free themselves, failures as exceptions, views of memory.
//
//   wanrt::Engine engine("engines/NAME");
//   wanrt::Tensors inputs("inputs.safetensors");
//   engine.bind(inputs.all());
//   engine.forward();
//   wanrt::Tensor sample = engine.output(0);  // sample.values<float>(), sample.sizes()
//   engine.swap("adapter.safetensors");       // between two forwards; swap() is the base again
//   engine.swap({{"a.safetensors", 0.9F}, {"b.safetensors", -0.3F}});
//   engine.set_strengths({0.5F, 0});          // of these two, without touching A and B
//
// A split engine also takes a prompt once, for all steps:
//
//   wanrt::Context context = engine.prepare(prompt);  // manifest().context_inputs()
//   engine.bind(context, latents);                    // the other inputs
//
// What wanrt.h says about ownership, lifetimes and threads holds here too. Handles move and don't
// copy; a moved-from handle may only be destroyed or assigned to.
#ifndef WANRT_WANRT_HPP
#define WANRT_WANRT_HPP

#include <wanrt/wanrt.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace wanrt {

// A failed call: `what()` says what is wrong and where, `hint()` what to do about it.
class Error : public std::runtime_error {
 public:
  Error(wanrt_status status, const wanrt_error& error)
      : std::runtime_error(error.message), status_(status), hint_(error.hint) {}

  [[nodiscard]] wanrt_status status() const noexcept { return status_; }
  [[nodiscard]] const std::string& hint() const noexcept { return hint_; }

 private:
  wanrt_status status_;
  std::string hint_;
};

// Call a function of wanrt.h with an error as its last argument; throw what it reports.
template <typename Function, typename... Arguments>
void call(Function function, Arguments... arguments) {
  wanrt_error error;
  const wanrt_status status = function(arguments..., &error);
  if (status != WANRT_OK) {
    throw Error(status, error);
  }
}

// Somebody else's consecutive values; std::span for C++17.
template <typename T>
class Span {
 public:
  Span(T* data, std::size_t size) : data_(data), size_(size) {}

  [[nodiscard]] T* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }
  [[nodiscard]] T* begin() const noexcept { return data_; }
  [[nodiscard]] T* end() const noexcept { return data_ + size_; }
  T& operator[](std::size_t index) const { return data_[index]; }

 private:
  T* data_;
  std::size_t size_;
};

// A tensor of a manifest, a file or an engine; it owns nothing.
struct Tensor : wanrt_tensor {
  Tensor() : wanrt_tensor() {}

  [[nodiscard]] Span<const std::int64_t> sizes() const { return {shape, rank}; }

  // The values as T, which must have the dtype's size (std::uint16_t for fp16 and bf16). Throws
  // std::logic_error if it hasn't, or if this is a description without values.
  template <typename T>
  [[nodiscard]] Span<T> values() const {
    const std::size_t size = dtype == WANRT_FP32 ? 4 : 2;
    if (dtype != WANRT_OTHER && sizeof(T) != size) {
      throw std::logic_error(std::string(name) + "'s values have " + std::to_string(size) +
                             " bytes, not " + std::to_string(sizeof(T)));
    }
    if (data == nullptr && bytes > 0) {
      throw std::logic_error(std::string(name) + " has no values");
    }
    return {static_cast<T*>(data), bytes / sizeof(T)};
  }
};

namespace detail {

// `read` describes a tensor by its index.
template <typename Read>
std::vector<Tensor> list(std::size_t count, Read read) {
  std::vector<Tensor> tensors;
  for (std::size_t i = 0; i < count; ++i) {
    tensors.push_back(read(i));
  }
  return tensors;
}

}  // namespace detail

// What an engine is. A view of an engine's or file's manifest; it owns nothing.
class ManifestView {
 public:
  explicit ManifestView(const wanrt_manifest* handle) : handle_(handle) {}

  [[nodiscard]] wanrt_info info() const {
    wanrt_info info;
    call(wanrt_manifest_info, handle_, &info);
    return info;
  }

  [[nodiscard]] wanrt_workload workload(std::size_t index = 0) const {
    wanrt_workload workload;
    call(wanrt_manifest_workload, handle_, index, &workload);
    return workload;
  }

  // Tensors with the shapes that they have in a workload; null: the first.
  [[nodiscard]] std::vector<Tensor> inputs(const char* workload = nullptr) const {
    return tensors(workload, WANRT_INPUT, info().inputs);
  }
  [[nodiscard]] std::vector<Tensor> outputs(const char* workload = nullptr) const {
    return tensors(workload, WANRT_OUTPUT, info().outputs);
  }
  [[nodiscard]] std::vector<Tensor> adapter_inputs() const {
    return tensors(nullptr, WANRT_ADAPTER_INPUT, info().adapter_inputs);
  }

  // Those of inputs() that Engine::prepare takes; of an engine of one graph there are none.
  [[nodiscard]] std::vector<Tensor> context_inputs(const char* workload = nullptr) const {
    return tensors(workload, WANRT_CONTEXT_INPUT, info().context_inputs);
  }

  [[nodiscard]] const char* json() const noexcept { return wanrt_manifest_json(handle_); }

 private:
  [[nodiscard]] std::vector<Tensor> tensors(const char* workload, wanrt_kind kind,
                                            std::size_t count) const {
    return detail::list(count, [&](std::size_t index) {
      Tensor tensor;
      call(wanrt_manifest_tensor, handle_, workload, kind, index, &tensor);
      return tensor;
    });
  }

  const wanrt_manifest* handle_;
};

// A folder's manifest, read and checked without loading the engine.
class Manifest : public ManifestView {
 public:
  explicit Manifest(const std::string& folder) : Manifest(read(folder)) {}

 private:
  struct Free {
    void operator()(wanrt_manifest* handle) const noexcept { wanrt_manifest_free(handle); }
  };
  using Handle = std::unique_ptr<wanrt_manifest, Free>;

  explicit Manifest(Handle handle) : ManifestView(handle.get()), handle_(std::move(handle)) {}

  static Handle read(const std::string& folder) {
    wanrt_manifest* handle = nullptr;
    call(wanrt_manifest_read, folder.c_str(), &handle);
    return Handle(handle);
  }

  Handle handle_;
};

// A safetensors file in memory.
class Tensors {
 public:
  explicit Tensors(const std::string& path) {
    wanrt_tensors* handle = nullptr;
    call(wanrt_tensors_read, path.c_str(), &handle);
    handle_.reset(handle);
  }

  [[nodiscard]] std::vector<Tensor> all() const {
    std::vector<Tensor> tensors;
    for (Tensor tensor = get(0); tensor.name != nullptr; tensor = get(tensors.size())) {
      tensors.push_back(tensor);
    }
    return tensors;
  }

  // What the file's header says for a key.
  [[nodiscard]] std::optional<std::string> metadata(const std::string& key) const {
    const char* text = wanrt_tensors_metadata(handle_.get(), key.c_str());
    return text == nullptr ? std::nullopt : std::optional<std::string>(text);
  }

 private:
  struct Free {
    void operator()(wanrt_tensors* handle) const noexcept { wanrt_tensors_free(handle); }
  };

  [[nodiscard]] Tensor get(std::size_t index) const {
    Tensor tensor;
    call(wanrt_tensors_get, handle_.get(), index, &tensor);
    return tensor;
  }

  std::unique_ptr<wanrt_tensors, Free> handle_;
};

class Engine;

// What Engine::prepare made of a prompt and an image.
class Context {
 public:
  [[nodiscard]] std::uint64_t bytes() const { return info().first; }
  [[nodiscard]] double seconds() const { return info().second; }

 private:
  friend class Engine;
  struct Free {
    void operator()(wanrt_context* handle) const noexcept { wanrt_context_free(handle); }
  };

  explicit Context(wanrt_context* handle) : handle_(handle) {}

  [[nodiscard]] std::pair<std::uint64_t, double> info() const {
    std::pair<std::uint64_t, double> info;
    call(wanrt_context_info, handle_.get(), &info.first, &info.second);
    return info;
  }

  std::unique_ptr<wanrt_context, Free> handle_;
};

// Told while an engine is loaded, as wanrt_progress is; false gives up. What it throws, the
// engine's constructor throws.
using Progress = std::function<bool(std::uint64_t done, std::uint64_t total)>;

namespace detail {

// A Progress as the C ABI calls it.
struct Watcher {
  const Progress& progress;
  std::exception_ptr thrown;

  static int tell(void* context, std::uint64_t done, std::uint64_t total) noexcept {
    auto& watcher = *static_cast<Watcher*>(context);
    try {
      return watcher.progress(done, total) ? 0 : 1;
    } catch (...) {
      watcher.thrown = std::current_exception();
      return 1;
    }
  }
};

}  // namespace detail

// An engine in memory. A call while another thread is in one throws an Error of WANRT_BUSY;
// different engines may run in parallel.
class Engine {
 public:
  explicit Engine(const std::string& folder, const wanrt_options& options = wanrt_options(),
                  const Progress& progress = nullptr) {
    if (wanrt_abi_version() != WANRT_ABI_VERSION) {
      throw std::runtime_error("libwanrt has ABI version " + std::to_string(wanrt_abi_version()) +
                               ", this program was built for " + std::to_string(WANRT_ABI_VERSION));
    }
    detail::Watcher watcher{progress, nullptr};
    wanrt_options chosen = options;
    if (progress) {
      chosen.progress = detail::Watcher::tell;
      chosen.progress_context = &watcher;
    }
    wanrt_engine* handle = nullptr;
    wanrt_error error;
    const wanrt_status status = wanrt_open(folder.c_str(), &chosen, &handle, &error);
    if (watcher.thrown) {
      std::rethrow_exception(watcher.thrown);
    }
    if (status != WANRT_OK) {
      throw Error(status, error);
    }
    handle_.reset(handle);
  }

  [[nodiscard]] ManifestView manifest() const {
    return ManifestView(wanrt_engine_manifest(handle_.get()));
  }

  // Forwards read and write this memory in place until the next bind.
  void bind(const std::vector<Tensor>& inputs, const std::vector<Tensor>& outputs = {}) {
    const std::vector<wanrt_tensor> in(inputs.begin(), inputs.end());
    const std::vector<wanrt_tensor> out(outputs.begin(), outputs.end());
    call(wanrt_bind, handle_.get(), in.data(), in.size(), out.data(), out.size());
  }

  // Compute what a prompt and an image decide, for any number of forwards of a split engine.
  [[nodiscard]] Context prepare(const std::vector<Tensor>& inputs) {
    const std::vector<wanrt_tensor> in(inputs.begin(), inputs.end());
    wanrt_context* handle = nullptr;
    call(wanrt_prepare, handle_.get(), in.data(), in.size(), &handle);
    return Context(handle);
  }

  // The same as the other bind, with a context for the inputs that it was made of.
  void bind(const Context& context, const std::vector<Tensor>& inputs,
            const std::vector<Tensor>& outputs = {}) {
    const std::vector<wanrt_tensor> in(inputs.begin(), inputs.end());
    const std::vector<wanrt_tensor> out(outputs.begin(), outputs.end());
    call(wanrt_bind_context, handle_.get(),
         static_cast<const wanrt_context*>(context.handle_.get()), in.data(), in.size(), out.data(),
         out.size());
  }

  void forward() { call(wanrt_forward, handle_.get()); }

  // Seconds that the backend took for one forward.
  double time_forward() {
    double seconds = 0;
    call(wanrt_time_forward, handle_.get(), &seconds);
    return seconds;
  }

  [[nodiscard]] Tensor output(std::size_t index = 0) {
    Tensor tensor;
    call(wanrt_output, handle_.get(), index, &tensor);
    return tensor;
  }

  // Load canonical adapters side by side, each with its strength; without one, go back to the base.
  void swap(const std::vector<std::pair<std::string, float>>& adapters) {
    std::vector<wanrt_adapter> list;
    for (const auto& [path, strength] : adapters) {
      list.push_back({path.c_str(), strength});
    }
    call(wanrt_swap, handle_.get(), static_cast<const wanrt_adapter*>(list.data()), list.size());
  }
  void swap(const std::string& adapter, float strength = 1) { swap({{adapter, strength}}); }
  void swap() { swap(std::vector<std::pair<std::string, float>>()); }

  // Change the strengths alone, in the order of the last swap.
  void set_strengths(const std::vector<float>& strengths) {
    call(wanrt_set_strengths, handle_.get(), strengths.data(), strengths.size());
  }

  // Free the engine, which is then as if moved from. The destructor does the same, but can't tell
  // that another thread is in a call: then the engine stays in memory for good.
  void close() {
    call(wanrt_close, handle_.get());
    [[maybe_unused]] const wanrt_engine* freed = handle_.release();
  }

 private:
  struct Free {
    void operator()(wanrt_engine* handle) const noexcept { wanrt_close(handle, nullptr); }
  };

  std::unique_ptr<wanrt_engine, Free> handle_;
};

}  // namespace wanrt

#endif
