#include "tensorrt/refit.h"

#include "cores.h"
#include "error.h"

namespace wanrt::impl {

Refit::Refit(TensorRt& tensorrt, nvinfer1::ICudaEngine& engine, int threads)
    : tensorrt_(tensorrt), refitter_(nvinfer1::createInferRefitter(engine, tensorrt.log())) {
  if (!refitter_ || !refitter_->setMaxThreads(threads > 0 ? threads : usable_cores())) {
    tensorrt_.fail("can't exchange this plan's weights");
  }
}

void Refit::give(const std::string& name, wanrt_dtype dtype, const void* data, std::size_t bytes,
                 nvinfer1::TensorLocation location) {
  const nvinfer1::Weights wanted = refitter_->getWeightsPrototype(name.c_str());
  const auto count = static_cast<std::int64_t>(bytes / dtype_bytes(dtype));
  if (wanted.count < 0) {
    tensorrt_.fail("knows no weights " + name);
  }
  if (wanted.type != to_tensorrt(dtype) || wanted.count != count) {
    tensorrt_.fail("wants " + std::to_string(wanted.count) + " values of " + name +
                   " in another dtype or number than the " + std::to_string(count) + " in " +
                   dtype_name(dtype) + " that engine.json has");
  }
  if (!refitter_->setNamedWeights(name.c_str(), {wanted.type, data, count}, location)) {
    tensorrt_.fail("refuses the weights " + name);
  }
  given_ = true;
}

std::vector<std::string> Refit::missing() {
  const std::int32_t count = refitter_->getMissingWeights(0, nullptr);
  std::vector<const char*> names(static_cast<std::size_t>(count));
  refitter_->getMissingWeights(count, names.data());
  return {names.begin(), names.end()};
}

std::vector<std::string> Refit::replaceable() {
  const std::int32_t count = refitter_->getAllWeights(0, nullptr);
  std::vector<const char*> names(static_cast<std::size_t>(count));
  refitter_->getAllWeights(count, names.data());
  return {names.begin(), names.end()};
}

void Refit::complete(const std::function<void(const std::string&)>& supply) {
  std::set<std::string> given;
  for (auto names = missing(); !names.empty(); names = missing()) {
    for (const std::string& name : names) {
      if (!given.insert(name).second) {
        tensorrt_.fail("still misses the weights " + name + " after it got them");
      }
      supply(name);
    }
  }
}

void Refit::run(cudaStream_t stream) {
  if (!given_) {
    return;
  }
  if (!refitter_->refitCudaEngineAsync(stream)) {
    tensorrt_.fail("can't exchange weights");
  }
  synchronize(stream);
}

void refit_from_folder(TensorRt& tensorrt, nvinfer1::ICudaEngine& engine, const Folder& folder,
                       int threads, cudaStream_t stream) {
  const Plan& plan = plan_of(folder);
  MappedWeights weights(folder);
  Refit refit(tensorrt, engine, threads);
  const auto supply = [&](const std::string& name) {
    const auto range = plan.weights.find(name);
    if (range == plan.weights.end()) {
      tensorrt.fail("asks for the weights " + name + ", which engine.json doesn't name");
    }
    refit.give(name, range->second.dtype, weights.at(range->second),
               static_cast<std::size_t>(range->second.bytes), nvinfer1::TensorLocation::kHOST);
  };
  if (plan.refit != "none") {  // a plan that others share may hold another engine's values
    for (const std::string& name : refit.replaceable()) {
      if (plan.weights.count(name) != 0) {
        supply(name);
      }
    }
  }
  refit.complete(supply);
  refit.run(stream);
}

}  // namespace wanrt::impl
