#include "tensorrt/cuda.h"

#include <algorithm>
#include <string>

#include "error.h"

namespace wanrt::impl {

void check_cuda(cudaError_t status, const char* doing) {
  if (status == cudaSuccess) {
    return;
  }
  cudaGetLastError();  // what isn't sticky must not be met again by the host's own calls
  const std::string message =
      std::string("CUDA can't ") + doing + ": " + cudaGetErrorString(status);
  switch (status) {
    case cudaErrorMemoryAllocation:
      throw Error(WANRT_OUT_OF_MEMORY, message);
    case cudaErrorNoDevice:
    case cudaErrorInsufficientDriver:
    case cudaErrorInvalidDevice:
      throw Error(WANRT_UNSUPPORTED, message);
    default:
      throw Error(WANRT_ENGINE_ERROR, message);
  }
}

DeviceGuard::DeviceGuard(int device) {
  check_cuda(cudaGetDevice(&before_), "tell the current device");
  check_cuda(cudaSetDevice(device), "use the device");
}

DeviceGuard::~DeviceGuard() { cudaSetDevice(before_); }

DeviceMemory::DeviceMemory(std::size_t bytes) : size_(bytes) {
  void* data = nullptr;
  check_cuda(cudaMalloc(&data, std::max<std::size_t>(bytes, 1)), "allocate device memory");
  data_.reset(static_cast<std::byte*>(data));
}

Stream make_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "make a stream");
  return Stream(stream);
}

Event make_event() {
  cudaEvent_t event = nullptr;
  check_cuda(cudaEventCreateWithFlags(&event, cudaEventDefault), "make an event");
  return Event(event);
}

void copy_to_device(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream),
             "copy to the device");
}

void copy_to_host(void* to, const void* from, std::size_t bytes, cudaStream_t stream) {
  check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream),
             "copy from the device");
}

void synchronize(cudaStream_t stream) { check_cuda(cudaStreamSynchronize(stream), "run"); }

}  // namespace wanrt::impl
