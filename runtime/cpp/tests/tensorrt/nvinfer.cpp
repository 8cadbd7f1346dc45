// TensorRT's runtime, as far as the backend calls it. fake.h says what a plan is.
#include <NvInfer.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>
#include <string>
#include <vector>

#include "fake.h"
#include "stubs.h"

namespace {

using Json = nlohmann::json;
using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::ILogger;
using Values = std::vector<float>;
using Shape = std::vector<std::int64_t>;

bool complain(ILogger* log, const std::string& message) {
  log->log(ILogger::Severity::kERROR, message.c_str());
  return false;
}

std::size_t count(const Shape& shape) {
  return std::accumulate(shape.begin(), shape.end(), std::size_t{1},
                         [](std::size_t n, std::int64_t size) { return n * std::size_t(size); });
}

class Engine final : public nvinfer1::ICudaEngine, public stubs::CudaEngine {
 public:
  Engine(ILogger* logger, Json content) : log(logger), plan(std::move(content)) {
    stubs::CudaEngine* self = this;
    mImpl = self;
    for (const auto& [name, weight] : plan.at("weights").items()) {
      weights[name] = weight.value("values", Values());
    }
  }

  std::int32_t getNbIOTensors() const noexcept override {
    return static_cast<std::int32_t>(plan["inputs"].size() + plan["outputs"].size());
  }
  DataType getTensorDataType(const char* name) const noexcept override {
    for (const char* kind : {"inputs", "outputs"}) {
      if (plan[kind].contains(name)) {
        return plan[kind][name].value("dtype", "fp32") == "bf16" ? DataType::kBF16
                                                                 : DataType::kFLOAT;
      }
    }
    return DataType::kINT32;
  }
  nvinfer1::TensorIOMode getTensorIOMode(const char* name) const noexcept override {
    using nvinfer1::TensorIOMode;
    if (plan["inputs"].contains(name)) {
      return TensorIOMode::kINPUT;
    }
    return plan["outputs"].contains(name) ? TensorIOMode::kOUTPUT : TensorIOMode::kNONE;
  }
  std::int64_t getDeviceMemorySizeForProfileV2(std::int32_t) const noexcept override { return 512; }
  nvinfer1::IExecutionContext* createExecutionContext(
      nvinfer1::ExecutionContextAllocationStrategy strategy) noexcept override;

  ILogger* log;
  Json plan;
  std::map<std::string, Values> weights;  // empty: missing
  int generation = 0;
};

class Context final : public nvinfer1::IExecutionContext, public stubs::ExecutionContext {
 public:
  explicit Context(Engine& from) : engine_(from) {
    stubs::ExecutionContext* self = this;
    mImpl = self;
  }

  bool setOptimizationProfileAsync(std::int32_t index, cudaStream_t) noexcept override {
    profile_ = index;
    shapes_.clear();
    memory_ = 0;
    return !fake::fails("setOptimizationProfileAsync");
  }
  bool setInputShape(const char* name, const Dims& dims) noexcept override {
    const Shape shape(std::begin(dims.d), std::begin(dims.d) + dims.nbDims);
    const Json& profiles = engine_.plan["inputs"][name]["shapes"];
    const auto index = static_cast<std::size_t>(profile_);
    if (index >= profiles.size() || profiles[index].get<Shape>() != shape) {
      return complain(engine_.log, "no such shape in this profile");
    }
    shapes_[name] = shape;
    return true;
  }
  std::int32_t inferShapes(std::int32_t, const char**) noexcept override {
    return static_cast<std::int32_t>(engine_.plan["inputs"].size() - shapes_.size());
  }
  Dims getTensorShape(const char* name) const noexcept override {
    const Shape shape = shape_of(name);
    Dims dims = {};
    dims.nbDims = static_cast<std::int32_t>(shape.size());
    std::copy(shape.begin(), shape.end(), std::begin(dims.d));
    return dims;
  }
  std::size_t updateDeviceMemorySizeForShapes() noexcept override {
    return 256 * count(shapes_.begin()->second);
  }
  void setDeviceMemoryV2(void* data, std::int64_t bytes) noexcept override {
    memory_ = fake::is_device(data, static_cast<std::size_t>(bytes)) ? bytes : 0;
  }
  bool setTensorAddress(const char* name, void* data) noexcept override {
    addresses_[name] = static_cast<float*>(data);
    return true;
  }
  bool enqueueV3(cudaStream_t stream) noexcept override;

 private:
  Shape shape_of(const std::string& name) const {
    const auto found = shapes_.find(name);
    return found != shapes_.end() ? found->second
                                  : shapes_.at(engine_.plan["outputs"][name]["like"]);
  }

  Engine& engine_;
  int profile_ = 0;
  std::int64_t memory_ = 0;
  std::map<std::string, Shape> shapes_;
  std::map<std::string, float*> addresses_;
};

// What one forward computes with, as it was when it was put on the stream.
struct Call {
  Engine* engine;
  int generation;
  std::map<std::string, float*> addresses;
  std::map<std::string, Shape> shapes;
};

void sum(const Call& call) {
  float total = 0;
  for (const auto& [name, values] : call.engine->weights) {
    total = std::accumulate(values.begin(), values.end(), total);
  }
  for (const auto& [name, shape] : call.shapes) {
    if (name == "x" || name == "timestep" || name == "strengths") {
      continue;
    }
    const bool down = name.find("lora_A") != std::string::npos;
    const float* values = call.addresses.at(name);
    for (std::size_t i = 0; i < count(shape); ++i) {
      const std::size_t row = i / static_cast<std::size_t>(shape[1]);
      total += values[i] * (down ? call.addresses.at("strengths")[row] : 1);
    }
  }
  const float* x = call.addresses.at("x");
  std::transform(x, x + count(call.shapes.at("x")), call.addresses.at("y"),
                 [total](float value) { return value + total; });
}

void merge(const Call& call) {
  const Shape& a_shape = call.shapes.at("lora_A");
  const Shape& shape = call.shapes.at("weight");
  const float* a = call.addresses.at("lora_A");
  const float* b = call.addresses.at("lora_B");
  for (std::int64_t i = 0; i < shape[0]; ++i) {
    for (std::int64_t j = 0; j < shape[1]; ++j) {
      float value = call.addresses.at("weight")[i * shape[1] + j];
      for (std::int64_t r = 0; r < a_shape[0]; ++r) {
        value += b[i * a_shape[0] + r] * a[r * shape[1] + j];
      }
      call.addresses.at("merged")[i * shape[1] + j] = value;
    }
  }
  ++fake::state().merges;
}

void run(const Call& call) {
  if (call.generation != call.engine->generation) {
    stubs::stop("run of a graph from before a refit");
  }
  if (call.engine->plan.value("kind", "sum") == "merge") {
    merge(call);
  } else {
    sum(call);
  }
  fake::pass_time();
}

bool Context::enqueueV3(cudaStream_t stream) noexcept {
  if (fake::fails("enqueueV3")) {
    return complain(engine_.log, "the stand-in can't run");
  }
  for (const auto& [name, values] : engine_.weights) {
    if (values.empty()) {
      return complain(engine_.log, "weights " + name + " are missing");
    }
  }
  for (const char* kind : {"inputs", "outputs"}) {
    for (const auto& [name, tensor] : engine_.plan[kind].items()) {
      const std::size_t bytes = count(shape_of(name)) * sizeof(float);
      if (!fake::is_device(addresses_[name], bytes)) {
        return complain(engine_.log, name + " isn't device memory");
      }
    }
  }
  if (memory_ < static_cast<std::int64_t>(updateDeviceMemorySizeForShapes())) {
    return complain(engine_.log, "too little device memory");
  }
  ++fake::state().enqueues;
  fake::put(stream,
            [call = Call{&engine_, engine_.generation, addresses_, shapes_}] { run(call); });
  return true;
}

nvinfer1::IExecutionContext* Engine::createExecutionContext(
    nvinfer1::ExecutionContextAllocationStrategy strategy) noexcept {
  const bool right = strategy == nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED;
  return right && !fake::fails("createExecutionContext") ? new Context(*this) : nullptr;
}

class Refitter final : public nvinfer1::IRefitter, public stubs::Refitter {
 public:
  explicit Refitter(Engine& engine) : engine_(engine) {
    stubs::Refitter* self = this;
    mImpl = self;
  }

  bool setMaxThreads(std::int32_t threads) noexcept override { return threads > 0; }
  nvinfer1::Weights getWeightsPrototype(const char* name) const noexcept override {
    const Json& weights = engine_.plan["weights"];
    if (!weights.contains(name)) {
      return {DataType::kFLOAT, nullptr, -1};
    }
    return {DataType::kFLOAT, nullptr, weights[name]["count"]};
  }
  bool setNamedWeightsWithLocation(const char* name, nvinfer1::Weights weights,
                                   nvinfer1::TensorLocation location) noexcept override {
    const auto bytes = static_cast<std::size_t>(weights.count) * sizeof(float);
    const bool device = location == nvinfer1::TensorLocation::kDEVICE;
    if (fake::fails("setNamedWeights") || device != fake::is_device(weights.values, bytes)) {
      return complain(engine_.log, "bad weights");
    }
    given_[name] = {weights, device};
    return true;
  }
  std::int32_t getMissingWeights(std::int32_t size, const char** names) noexcept override {
    missing_.clear();
    for (const auto& [name, values] : engine_.weights) {
      bool wanted = values.empty();
      for (const Json& other : engine_.plan["weights"][name].value("with", Json::array())) {
        wanted = wanted || given_.count(other.get<std::string>()) > 0;
      }
      if (wanted && given_.count(name) == 0) {
        missing_.push_back(name);
      }
    }
    for (std::size_t i = 0; i < std::min(missing_.size(), std::size_t(size)); ++i) {
      names[i] = missing_[i].c_str();
    }
    return static_cast<std::int32_t>(missing_.size());
  }
  std::int32_t getAllWeights(std::int32_t size, const char** names) noexcept override {
    all_.clear();
    for (const auto& [name, values] : engine_.weights) {
      all_.push_back(name);
    }
    for (std::size_t i = 0; i < std::min(all_.size(), std::size_t(size)); ++i) {
      names[i] = all_[i].c_str();
    }
    return static_cast<std::int32_t>(all_.size());
  }
  bool refitCudaEngineAsync(cudaStream_t stream) noexcept override {
    if (getMissingWeights(0, nullptr) > 0 || fake::fails("refitCudaEngineAsync")) {
      return complain(engine_.log, "the stand-in can't refit");
    }
    for (const auto& [name, given] : given_) {
      const auto& [weights, device] = given;
      const auto values = static_cast<std::size_t>(weights.count);
      auto copy = [target = &engine_.weights[name], from = weights.values, values] {
        target->resize(values);
        std::memcpy(target->data(), from, values * sizeof(float));  // at any alignment
      };
      if (device) {
        fake::put(stream, copy);  // in the stream's order
      } else {
        copy();
      }
      ++fake::state().refitted;
    }
    fake::put(stream, [&engine = engine_] { ++engine.generation; });
    ++fake::state().refits;
    return true;
  }

 private:
  Engine& engine_;
  std::map<std::string, std::pair<nvinfer1::Weights, bool>> given_;
  std::vector<std::string> missing_, all_;
};

class Runtime final : public nvinfer1::IRuntime, public stubs::Runtime {
 public:
  explicit Runtime(ILogger* log) : log_(log) {
    stubs::Runtime* self = this;
    mImpl = self;
  }

  nvinfer1::ICudaEngine* deserializeCudaEngine(const void* data,
                                               std::size_t bytes) noexcept override {
    const auto* text = static_cast<const char*>(data);
    Json plan = Json::parse(text, text + bytes, nullptr, false);
    if (!plan.is_object()) {
      complain(log_, "the stand-in\ncan't read this plan");
      return nullptr;
    }
    return new Engine(log_, std::move(plan));
  }
  void setEngineHostCodeAllowed(bool allowed) noexcept override {
    fake::state().host_code_allowed = allowed;
  }

 private:
  ILogger* log_;
};

int version(std::size_t part, int header) {
  const auto& faked = fake::state().version;
  return faked[0] == 0 ? header : faked[part];
}

}  // namespace

#define API extern "C" FAKE_API

API void* createInferRuntime_INTERNAL(void* log, std::int32_t) noexcept {
  if (fake::fails("createInferRuntime")) {
    return nullptr;
  }
  return static_cast<nvinfer1::IRuntime*>(new Runtime(static_cast<ILogger*>(log)));
}

API void* createInferRefitter_INTERNAL(void* engine, void*, std::int32_t) noexcept {
  auto* real = static_cast<Engine*>(static_cast<nvinfer1::ICudaEngine*>(engine));
  return static_cast<nvinfer1::IRefitter*>(new Refitter(*real));
}

API std::int32_t getInferLibMajorVersion() noexcept { return version(0, NV_TENSORRT_MAJOR); }
API std::int32_t getInferLibMinorVersion() noexcept { return version(1, NV_TENSORRT_MINOR); }
API std::int32_t getInferLibPatchVersion() noexcept { return version(2, NV_TENSORRT_PATCH); }
API std::int32_t getInferLibBuildVersion() noexcept { return version(3, NV_TENSORRT_BUILD); }
