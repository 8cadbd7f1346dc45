// Giving an engine in memory its weights by name.
#pragma once

#include <NvInfer.h>

#include <functional>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "tensorrt/cuda.h"
#include "tensorrt/mapping.h"
#include "tensorrt/runtime.h"

namespace wanrt::impl {

// One exchange of weights. What was given stays where it is until `run` returned.
class Refit {
 public:
  Refit(TensorRt& tensorrt, nvinfer1::ICudaEngine& engine, int threads);

  void give(const std::string& name, wanrt_dtype dtype, const void* data, std::size_t bytes,
            nvinfer1::TensorLocation location);

  // Call `supply(name)`, which gives it, for whatever is missing until nothing is.
  void complete(const std::function<void(const std::string&)>& supply);

  // What may be given at all.
  [[nodiscard]] std::vector<std::string> replaceable();

  // Exchange what was given; nothing given is nothing to do.
  void run(cudaStream_t stream);

 private:
  [[nodiscard]] std::vector<std::string> missing();

  TensorRt& tensorrt_;
  std::unique_ptr<nvinfer1::IRefitter> refitter_;
  bool given_ = false;
};

// Give a plan without weights those that it misses, from the folder's files.
void refit_from_folder(TensorRt& tensorrt, nvinfer1::ICudaEngine& engine, const Folder& folder,
                       int threads, cudaStream_t stream);

}  // namespace wanrt::impl
