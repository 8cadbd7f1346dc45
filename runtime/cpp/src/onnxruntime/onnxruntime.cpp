// The CUDA paths follow ONNX Runtime's documentation and have not run on a GPU yet.
#include "onnxruntime/onnxruntime.h"

#include <onnxruntime_cxx_api.h>
#include <onnxruntime_run_options_config_keys.h>
#include <onnxruntime_session_options_config_keys.h>

#include <algorithm>
#include <array>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "cores.h"
#include "error.h"

namespace wanrt::impl {

namespace {

constexpr const char* kCudaProvider = "CUDAExecutionProvider";

// wanrt_dtype has ONNX's numbers.
static_assert(WANRT_FP32 == static_cast<int>(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT));
static_assert(WANRT_FP16 == static_cast<int>(ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16));
static_assert(WANRT_BF16 == static_cast<int>(ONNX_TENSOR_ELEMENT_DATA_TYPE_BFLOAT16));

std::string one_line(const char* text) {
  std::istringstream words(text);
  std::string line;
  for (std::string word; words >> word;) {
    line += (line.empty() ? "" : " ") + word;
  }
  return line;
}

// Call ONNX Runtime; its errors become ours.
template <typename Call>
auto translate(const std::string& folder, Call call) {
  try {
    return call();
  } catch (const Ort::Exception& error) {
    if (error.GetOrtErrorCode() == ORT_NOT_IMPLEMENTED) {
      throw Error(WANRT_UNSUPPORTED,
                  folder + ": ONNX Runtime can't run it: " + one_line(error.what()));
    }
    throw Error(WANRT_ENGINE_ERROR, folder + ": ONNX Runtime: " + one_line(error.what()));
  }
}

void check_runtime(const Folder& folder, const Options& options) {
  if (OrtGetApiBase()->GetApi(ORT_API_VERSION) == nullptr) {
    throw Error(WANRT_UNSUPPORTED,
                std::string("libonnxruntime is version ") + OrtGetApiBase()->GetVersionString() +
                    ", this libwanrt was built for 1." + std::to_string(ORT_API_VERSION) +
                    " or newer",
                "put a newer libonnxruntime.so.1 on the loader's path");
  }
  if (options.device == WANRT_CPU && options.stream != nullptr) {
    throw Error(WANRT_USAGE_ERROR, "a CPU engine takes no stream");
  }
  if (options.device == WANRT_CPU && folder.manifest.dtype == "bf16") {
    // the emulated form is a check of an engine, not a way to run one
    throw Error(WANRT_UNSUPPORTED, "bf16 doesn't run on ONNX Runtime's CPU",
                std::string("run it on a CUDA device, or build it with --dtype fp32") +
                    (folder.manifest.forward().emulated
                         ? "; its emulated form is Python's: wanrt run --device cpu"
                         : ""));
  }
  const auto providers = Ort::GetAvailableProviders();
  if (options.device == WANRT_CUDA &&
      std::find(providers.begin(), providers.end(), kCudaProvider) == providers.end()) {
    throw Error(WANRT_UNSUPPORTED, std::string("this libonnxruntime has no ") + kCudaProvider,
                "use a libonnxruntime that was built for CUDA");
  }
}

struct FreeCudaOptions {
  void operator()(OrtCUDAProviderOptionsV2* options) const {
    Ort::GetApi().ReleaseCUDAProviderOptions(options);
  }
};

void add_cuda(Ort::SessionOptions& session, const Options& options) {
  const OrtApi& api = Ort::GetApi();
  OrtCUDAProviderOptionsV2* raw = nullptr;
  Ort::ThrowOnError(api.CreateCUDAProviderOptions(&raw));
  const std::unique_ptr<OrtCUDAProviderOptionsV2, FreeCudaOptions> cuda(raw);
  const std::string device = std::to_string(options.device_id);
  // fp32 engines are verified as fp32; TF32 would make them something else.
  const std::array<const char*, 3> keys = {"device_id", "use_tf32", "arena_extend_strategy"};
  const std::array<const char*, 3> values = {device.c_str(), "0", "kSameAsRequested"};
  Ort::ThrowOnError(
      api.UpdateCUDAProviderOptions(cuda.get(), keys.data(), values.data(), keys.size()));
  if (options.stream != nullptr) {
    Ort::ThrowOnError(
        api.UpdateCUDAProviderOptionsWithValue(cuda.get(), "user_compute_stream", options.stream));
  }
  session.AppendExecutionProvider_CUDA_V2(*cuda);
}

// The same as Python's wanrt.ort_session: outputs are equal bit by bit.
Ort::SessionOptions session_options(const Manifest& manifest, const Graph& graph,
                                    const Options& options) {
  Ort::SessionOptions session;
  session.SetIntraOpNumThreads(options.threads > 0 ? options.threads : usable_cores());
  session.SetInterOpNumThreads(1);
  session.SetLogSeverityLevel(ORT_LOGGING_LEVEL_ERROR);
  if (manifest.workloads.size() > 1 && options.workload.empty()) {
    session.DisableMemPattern();
  }
  // The pool neither spins between forwards nor outnumbers the cores.
  session.AddConfigEntry(kOrtSessionOptionsConfigForceSpinningStop, "1");
  // The arena grows by doubling; weights in it would waste up to as much again.
  session.AddConfigEntry(kOrtSessionOptionsUseDeviceAllocatorForInitializers, "1");
  // Products of u8 and s8 saturate on CPUs with AVX2 but without VNNI, unless both are u8.
  session.AddConfigEntry(kOrtSessionOptionsAvx2PrecisionMode, "1");
  if (options.mapped) {
    session.AddConfigEntry(kOrtSessionOptionsConfigDisablePrepacking, "1");
  }
  if (&graph == manifest.context()) {
    session.DisableCpuMemArena();  // what it makes is kept: no more than that, and freed by itself
  }
  if (options.device == WANRT_CUDA) {
    add_cuda(session, options);
  }
  return session;
}

class OnnxRuntime final : public Backend {
 public:
  OnnxRuntime(const Folder& folder, const Graph& graph, const Options& options)
      : folder_(folder.path),
        graph_(graph),
        session_(env_, folder.file(graph.file).c_str(),
                 session_options(folder.manifest, graph, options)),
        binding_(session_),
        host_(Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)),
        device_(
            options.device == WANRT_CUDA
                ? Ort::MemoryInfo("Cuda", OrtDeviceAllocator, options.device_id, OrtMemTypeDefault)
                : Ort::MemoryInfo::CreateCpu(OrtDeviceAllocator, OrtMemTypeDefault)),
        on_device_(options.device == WANRT_CUDA) {
    if (options.stream != nullptr) {
      enqueue_.AddConfigEntry(kOrtRunOptionsConfigDisableSynchronizeExecutionProviders, "1");
    }
  }

  void bind_input(const std::string& name, const View& view) override {
    translate(folder_, [&] { binding_.BindInput(name.c_str(), wrap(view)); });
    copied_.erase(name);
    if (on_device_ && view.memory == WANRT_HOST) {
      copied_.emplace(name, view);
    }
  }

  void bind_output(const std::string& name, const View& view) override {
    translate(folder_, [&] { binding_.BindOutput(name.c_str(), wrap(view)); });
  }

  void make_output(const std::string& name) override {
    translate(folder_, [&] { binding_.BindOutput(name.c_str(), host_); });
  }

  View made_output(std::size_t index) override {
    return translate(folder_, [&] {
      made_ = binding_.GetOutputValues();
      return view_of(made_.at(index), WANRT_HOST);
    });
  }

  Made make_outputs() override {
    return translate(folder_, [&] {
      for (const TensorSpec& spec : graph_.outputs) {
        binding_.BindOutput(spec.name.c_str(), device_);
      }
      run(true);
      auto kept = std::make_shared<Kept>();
      kept->values = binding_.GetOutputValues();
      binding_.ClearBoundOutputs();  // or the next run would write to the same memory
      Made made;
      for (std::size_t i = 0; i < graph_.outputs.size(); ++i) {
        made.views[graph_.outputs[i].name] =
            view_of(kept->values.at(i), on_device_ ? WANRT_DEVICE : WANRT_HOST);
      }
      made.memory = std::move(kept);
      return made;
    });
  }

  void run(bool complete) override {
    translate(folder_, [&] {
      for (const auto& [name, view] : copied_) {
        binding_.BindInput(name.c_str(), wrap(view));  // binding is what copies to the device
      }
      session_.Run(complete ? complete_ : enqueue_, binding_);
    });
  }

 private:
  // Values that may outlive their session, but not ONNX Runtime's environment.
  struct Kept {
    Ort::Env env{ORT_LOGGING_LEVEL_ERROR, "wanrt"};
    std::vector<Ort::Value> values;
  };

  static View view_of(Ort::Value& value, wanrt_memory memory) {
    const auto facts = value.GetTensorTypeAndShapeInfo();
    View view;
    view.dtype = static_cast<wanrt_dtype>(facts.GetElementType());
    view.memory = memory;
    view.shape = facts.GetShape();
    view.data = value.GetTensorMutableRawData();
    view.bytes = facts.GetElementCount() * dtype_bytes(view.dtype);
    return view;
  }

  // The binding keeps the value, the value refers to the memory.
  [[nodiscard]] Ort::Value wrap(const View& view) const {
    return Ort::Value::CreateTensor(view.memory == WANRT_DEVICE ? device_ : host_, view.data,
                                    view.bytes, view.shape.data(), view.shape.size(),
                                    static_cast<ONNXTensorElementDataType>(view.dtype));
  }

  std::string folder_;
  const Graph& graph_;
  Ort::Env env_{ORT_LOGGING_LEVEL_ERROR, "wanrt"};  // ONNX Runtime shares one between engines
  Ort::Session session_;
  Ort::IoBinding binding_;
  Ort::MemoryInfo host_, device_;
  Ort::RunOptions complete_, enqueue_;
  bool on_device_;
  std::map<std::string, View> copied_;  // inputs in host memory, of an engine on a device
  std::vector<Ort::Value> made_;
};

}  // namespace

std::unique_ptr<Backend> open_onnxruntime(const Folder& folder, const Graph& graph,
                                          const Options& options) {
  check_runtime(folder, options);
  return translate(folder.path,
                   [&] { return std::make_unique<OnnxRuntime>(folder, graph, options); });
}

}  // namespace wanrt::impl
