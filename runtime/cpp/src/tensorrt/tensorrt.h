// The TensorRT backend, of TensorRT or of TensorRT for RTX: whichever this was compiled for.
#pragma once

#include <memory>

#include "backend.h"

namespace wanrt::impl {

std::unique_ptr<Backend> open_tensorrt(const Folder& folder, const Options& options);

}  // namespace wanrt::impl
