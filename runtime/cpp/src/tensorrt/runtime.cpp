#include "tensorrt/runtime.h"

#include <algorithm>
#include <array>
#include <optional>
#include <sstream>
#include <utility>

#include "error.h"
#include "tensorrt/cuda.h"
#include "tensorrt/mapping.h"

namespace wanrt::impl {

namespace {

using Version = std::array<int, 4>;

Version library_version() {
  return {getInferLibMajorVersion(), getInferLibMinorVersion(), getInferLibPatchVersion(),
          getInferLibBuildVersion()};
}

std::string show(const Version& version) {
  std::string text;
  for (const int part : version) {
    text += (text.empty() ? "" : ".") + std::to_string(part);
  }
  return text;
}

Version read_version(const std::string& text) {
  Version version = {};
  std::istringstream words(text);
  for (int& part : version) {
    words >> part;
    words.ignore(1, '.');
  }
  return version;
}

void check_library(const Folder& folder, const Plan& plan) {
  const Version here = library_version();
  if (here[0] != NV_TENSORRT_MAJOR) {
    throw Error(WANRT_UNSUPPORTED, "the TensorRT library is version " + show(here) +
                                       ", this libwanrt was built for " +
                                       std::to_string(NV_TENSORRT_MAJOR));
  }
  const bool runs =
      plan.version_compatible ? read_version(plan.library) <= here : plan.library == show(here);
  if (!runs) {
    throw Error(WANRT_UNSUPPORTED,
                folder.file(plan.file) + " was built with version " + plan.library +
                    ", the TensorRT library here is " + show(here),
                "build the engine again here, or put that version on the loader's path");
  }
}

void check_device(const Folder& folder, const Plan& plan, int device) {
  cudaDeviceProp facts = {};
  check_cuda(cudaGetDeviceProperties(&facts, device), "tell what the device is");
  const std::string capability = std::to_string(facts.major) + "." + std::to_string(facts.minor);
  const auto& listed = plan.compute_capabilities;
  bool runs = std::find(listed.begin(), listed.end(), capability) != listed.end();
  std::string wanted;
  if (plan.hardware_compatibility == "none" && folder.manifest.backend == "tensorrt" && plan.gpu) {
    runs = *plan.gpu == facts.name;
    wanted = *plan.gpu;
  } else if (plan.hardware_compatibility == "ampere+") {
    runs = runs || facts.major >= 8;
    wanted = "compute capability 8.0 or later";
  } else {
    wanted = "compute capability";
    for (const std::string& one : listed) {
      wanted += " " + one;
    }
  }
  if (!runs) {
    throw Error(WANRT_UNSUPPORTED,
                folder.file(plan.file) + " is for " + wanted + ", this GPU is " + facts.name +
                    " of compute capability " + capability,
                "build the engine again on this GPU");
  }
}

std::string one_line(const std::string& text) {
  std::istringstream words(text);
  std::string line;
  for (std::string word; words >> word;) {
    line += (line.empty() ? "" : " ") + word;
  }
  return line;
}

}  // namespace

const Plan& plan_of(const Folder& folder) {
  const std::optional<Plan>& plan = folder.manifest.forward().plan;
  if (!plan) {
    throw Error(WANRT_MANIFEST_ERROR, folder.path + "/engine.json has no plan");
  }
  return *plan;
}

void TensorRtLog::log(Severity severity, const char* message) noexcept {
  if (severity > Severity::kERROR) {
    return;
  }
  try {
    const std::scoped_lock lock(mutex_);
    last_ = message;
  } catch (...) {
    return;  // out of memory; an older complaint is better than none
  }
}

std::string TensorRtLog::take() {
  const std::scoped_lock lock(mutex_);
  return std::exchange(last_, {});
}

TensorRt::TensorRt(const Folder& folder, int device) : folder_(folder) {
  const Plan& plan = plan_of(folder);
  check_library(folder, plan);
  check_device(folder, plan, device);
  runtime_.reset(nvinfer1::createInferRuntime(log_));
  if (!runtime_) {
    fail("can't start");
  }
  // such a plan carries code of the version that built it
  runtime_->setEngineHostCodeAllowed(plan.version_compatible);
}

PlanEngine TensorRt::load(const FileEntry& file) {
  const Mapping plan(folder_.file(file));
  PlanEngine engine(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
  if (!engine) {
    fail("can't load " + file.file);
  }
  return engine;
}

void TensorRt::fail(const std::string& what) {
  const std::string why = one_line(log_.take());
  throw Error(WANRT_ENGINE_ERROR,
              folder_.path + ": TensorRT " + what + (why.empty() ? "" : ": " + why));
}

nvinfer1::DataType to_tensorrt(wanrt_dtype dtype) {
  if (dtype == WANRT_FP32) {
    return nvinfer1::DataType::kFLOAT;
  }
  return dtype == WANRT_FP16 ? nvinfer1::DataType::kHALF : nvinfer1::DataType::kBF16;
}

}  // namespace wanrt::impl
