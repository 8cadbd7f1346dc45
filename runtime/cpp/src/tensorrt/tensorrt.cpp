// Written against the headers and documentation of TensorRT 10.16 and 11.1; it has never run on a
// GPU, only with a stand-in of ours for TensorRT and CUDA (tests/tensorrt).
#include "tensorrt/tensorrt.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "error.h"
#include "tensorrt/cuda.h"
#include "tensorrt/forward.h"
#include "tensorrt/merge.h"
#include "tensorrt/refit.h"
#include "tensorrt/runtime.h"

namespace wanrt::impl {

namespace {

constexpr std::uintptr_t kAlignment = 256;  // TensorRT's, of every tensor

// An input or output: the caller's memory, and device memory where that is the host's.
struct Slot {
  View view;
  DeviceMemory own;

  [[nodiscard]] bool on_host() const { return view.memory == WANRT_HOST; }
  [[nodiscard]] Placed placed() const { return {on_host() ? own.data() : view.data, view.shape}; }
};

using Slots = std::map<std::string, Slot>;

PlacedTensors place_all(const Slots& slots) {
  PlacedTensors placed;
  for (const auto& [name, slot] : slots) {
    placed[name] = slot.placed();
  }
  return placed;
}

void check_options(const Folder& folder, const Options& options) {
  if (options.device != WANRT_CUDA) {
    throw Error(WANRT_UNSUPPORTED, folder.path + " is a TensorRT engine and runs on a GPU",
                "open it with the device WANRT_CUDA (wanrt-host --device cuda)");
  }
  if (options.mapped) {
    throw Error(WANRT_USAGE_ERROR, "mapped weights are a CPU engine's");
  }
}

class TensorRtBackend final : public Backend {
 public:
  TensorRtBackend(const Folder& folder, const Options& options)
      : folder_(folder),
        plan_(plan_of(folder)),
        device_(options.device_id),
        guard_(std::in_place, options.device_id),
        tensorrt_(folder, options.device_id),
        own_stream_(make_stream()),
        stream_(options.stream != nullptr ? static_cast<cudaStream_t>(options.stream)
                                          : own_stream_.get()),
        engine_(tensorrt_.load(plan_.file)) {
    check_tensors();
    if (!plan_.weights.empty()) {
      refit_from_folder(tensorrt_, *engine_, folder, options.threads, own_stream_.get());
    }
    forward_ = std::make_unique<Forward>(tensorrt_, *engine_, !options.no_graph);
    if (plan_.swap) {
      merger_ = std::make_unique<Merger>(tensorrt_, *engine_, folder, options.threads);
    }
    guard_.reset();
  }

  ~TensorRtBackend() override {
    try {
      guard_.emplace(device_);  // while the members below are freed
    } catch (const Error&) {
      static_cast<void>(folder_);  // the device is lost, and so is what it held
    }
  }
  TensorRtBackend(const TensorRtBackend&) = delete;
  TensorRtBackend& operator=(const TensorRtBackend&) = delete;
  TensorRtBackend(TensorRtBackend&&) = delete;
  TensorRtBackend& operator=(TensorRtBackend&&) = delete;

  void bind_input(const std::string& name, const View& view) override {
    const DeviceGuard guard(device_);
    take(inputs_[name], name, view);
  }

  void load_adapter(const std::string& name, const View& view) override {
    const DeviceGuard guard(device_);
    Slot& slot = adapter_[name];
    take(slot, name, view);
    copy_to_device(slot.own.data(), view.data, view.bytes, own_stream_.get());
    synchronize(own_stream_.get());
  }

  void bind_output(const std::string& name, const View& view) override {
    const DeviceGuard guard(device_);
    take(outputs_[name], name, view);
  }

  void make_output(const std::string& name) override {
    throw Error(WANRT_UNSUPPORTED, "output " + name + " has a size that only a forward tells",
                "TensorRT engines of libwanrt know their outputs' sizes from their inputs'");
  }

  View made_output(std::size_t index) override {
    static_cast<void>(index);
    throw Error(WANRT_INTERNAL_ERROR, "the TensorRT backend makes no outputs");
  }

  void finish_bind() override {
    const DeviceGuard guard(device_);
    synchronize(stream_);  // what ran on the memory that was bound before
    PlacedTensors inputs = place_all(inputs_);
    inputs.merge(place_all(adapter_));
    forward_->place(inputs, place_all(outputs_), choose_profile());
  }

  void run(bool complete) override {
    const DeviceGuard guard(device_);
    begin();
    forward_->enqueue(stream_);
    end(complete);
  }

  double time_run() override {
    const DeviceGuard guard(device_);
    begin();
    check_cuda(cudaEventRecord(before_.get(), stream_), "record an event");
    forward_->enqueue(stream_);
    check_cuda(cudaEventRecord(after_.get(), stream_), "record an event");
    end(true);
    float milliseconds = 0;
    check_cuda(cudaEventElapsedTime(&milliseconds, before_.get(), after_.get()),
               "tell the time between events");
    return static_cast<double>(milliseconds) / 1e3;
  }

  void merge(std::optional<Adapter> adapter) override {
    const DeviceGuard guard(device_);
    forward_->forget_graph();
    merger_->merge(std::move(adapter));
  }

 private:
  // The plan's inputs and outputs must be the manifest's.
  void check_tensors() {
    const auto& graph = folder_.manifest.forward();
    for (const TensorSpec& spec : graph.inputs) {
      check_tensor(spec, nvinfer1::TensorIOMode::kINPUT);
    }
    for (const TensorSpec& spec : graph.outputs) {
      check_tensor(spec, nvinfer1::TensorIOMode::kOUTPUT);
    }
    const auto named = static_cast<std::int32_t>(graph.inputs.size() + graph.outputs.size());
    if (engine_->getNbIOTensors() != named) {
      tensorrt_.fail("has a plan of " + std::to_string(engine_->getNbIOTensors()) +
                     " inputs and outputs, engine.json names " + std::to_string(named));
    }
  }

  void check_tensor(const TensorSpec& spec, nvinfer1::TensorIOMode mode) {
    const char* name = spec.name.c_str();
    if (engine_->getTensorIOMode(name) != mode) {
      tensorrt_.fail("has a plan without " + spec.name);
    }
    if (engine_->getTensorDataType(name) != to_tensorrt(spec.dtype)) {
      tensorrt_.fail("has a plan whose " + spec.name + " isn't " + dtype_name(spec.dtype));
    }
  }

  void take(Slot& slot, const std::string& name, const View& view) {
    if (view.memory == WANRT_DEVICE &&
        reinterpret_cast<std::uintptr_t>(view.data) % kAlignment != 0) {
      throw Error(WANRT_ENGINE_ERROR, name + "'s device memory isn't a multiple of 256",
                  "TensorRT wants every tensor at such an address, as cudaMalloc gives it");
    }
    if (view.memory == WANRT_HOST && slot.own.size() != view.bytes) {
      synchronize(stream_);
      slot.own = DeviceMemory(view.bytes);
    }
    slot.view = view;
  }

  // The profile whose workload has the shapes that are bound.
  [[nodiscard]] int choose_profile() const {
    const auto& profiles = plan_.profiles;
    for (std::size_t i = 0; i < profiles.size(); ++i) {
      const Workload& workload = *folder_.manifest.find_workload(profiles[i]);
      const bool same = std::all_of(inputs_.begin(), inputs_.end(), [&](const auto& input) {
        const auto shape = workload.shapes.find(input.first);
        return shape == workload.shapes.end() || shape->second == input.second.view.shape;
      });
      if (same) {
        return static_cast<int>(i);
      }
    }
    throw Error(WANRT_ENGINE_ERROR, folder_.path + " was built for other shapes than these",
                "its workloads are: " + folder_.manifest.workload_names());
  }

  void begin() {
    if (merger_) {
      merger_->require_intact();
    }
    forward_->prepare();
    for (const auto& [name, input] : inputs_) {
      if (input.on_host()) {
        copy_to_device(input.own.data(), input.view.data, input.view.bytes, stream_);
      }
    }
  }

  void end(bool complete) {
    for (const auto& [name, output] : outputs_) {
      if (output.on_host()) {
        copy_to_host(output.view.data, output.own.data(), output.view.bytes, stream_);
      }
    }
    if (complete || stream_ == own_stream_.get()) {
      synchronize(stream_);
    }
  }

  const Folder& folder_;
  const Plan& plan_;
  int device_;
  std::optional<DeviceGuard> guard_;  // while the members below are made and freed
  TensorRt tensorrt_;
  Stream own_stream_;
  cudaStream_t stream_;
  Event before_ = make_event(), after_ = make_event();
  PlanEngine engine_;
  Slots inputs_, adapter_, outputs_;
  std::unique_ptr<Forward> forward_;
  std::unique_ptr<Merger> merger_;
};

}  // namespace

std::unique_ptr<Backend> open_tensorrt(const Folder& folder, const Options& options) {
  check_options(folder, options);
  return std::make_unique<TensorRtBackend>(folder, options);
}

}  // namespace wanrt::impl
