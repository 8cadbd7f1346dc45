// TensorRT's runtime on one device: loading plans, and its complaints as our errors.
#pragma once

#include <NvInfer.h>

#include <memory>
#include <mutex>
#include <string>

#include "manifest/folder.h"

namespace wanrt::impl {

// Keeps what TensorRT last complained about, from whatever thread.
class TensorRtLog final : public nvinfer1::ILogger {
 public:
  void log(Severity severity, const char* message) noexcept override;
  std::string take();

 private:
  std::mutex mutex_;
  std::string last_;
};

// The plan of an engine's forward, which the manifest of a TensorRT backend has.
const Plan& plan_of(const Folder& folder);

using PlanEngine = std::unique_ptr<nvinfer1::ICudaEngine>;

// Must outlive what it loaded.
class TensorRt {
 public:
  // Check that this library and the current device run the folder's plan. Throws Error.
  TensorRt(const Folder& folder, int device);

  PlanEngine load(const FileEntry& file);

  // Throw `what`, and why.
  [[noreturn]] void fail(const std::string& what);

  [[nodiscard]] TensorRtLog& log() noexcept { return log_; }

 private:
  const Folder& folder_;
  TensorRtLog log_;
  std::unique_ptr<nvinfer1::IRuntime> runtime_;
};

nvinfer1::DataType to_tensorrt(wanrt_dtype dtype);

// A context that runs an engine's forwards one after the other.
using PlanContext = std::unique_ptr<nvinfer1::IExecutionContext>;

}  // namespace wanrt::impl
