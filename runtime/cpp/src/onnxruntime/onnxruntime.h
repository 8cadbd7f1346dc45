// The ONNX Runtime backend, on a CPU or a CUDA device.
#pragma once

#include <memory>

#include "backend.h"

namespace wanrt::impl {

std::unique_ptr<Backend> open_onnxruntime(const Folder& folder, const Graph& graph,
                                          const Options& options);

}  // namespace wanrt::impl
