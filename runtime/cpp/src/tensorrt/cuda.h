// CUDA's runtime: its errors as ours, its memory and handles freed by themselves.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <memory>
#include <type_traits>

namespace wanrt::impl {

// Throw what a call of CUDA's reported; `doing` says what it was for.
void check_cuda(cudaError_t status, const char* doing);

// Makes a device the calling thread's, and gives back the one that was before.
class DeviceGuard {
 public:
  explicit DeviceGuard(int device);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;
  DeviceGuard(DeviceGuard&&) = delete;
  DeviceGuard& operator=(DeviceGuard&&) = delete;

 private:
  int before_ = 0;
};

// Device memory; its address is a multiple of 256.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(std::size_t bytes);

  [[nodiscard]] std::byte* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  struct Free {
    void operator()(std::byte* data) const noexcept { cudaFree(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

template <typename Handle, cudaError_t (*Destroy)(Handle)>
struct DestroyHandle {
  void operator()(Handle handle) const noexcept { Destroy(handle); }
};
template <typename Handle, cudaError_t (*Destroy)(Handle)>
using CudaHandle = std::unique_ptr<std::remove_pointer_t<Handle>, DestroyHandle<Handle, Destroy>>;

using Stream = CudaHandle<cudaStream_t, cudaStreamDestroy>;
using Event = CudaHandle<cudaEvent_t, cudaEventDestroy>;
using CapturedGraph = CudaHandle<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = CudaHandle<cudaGraphExec_t, cudaGraphExecDestroy>;

Stream make_stream();
Event make_event();

void copy_to_device(void* to, const void* from, std::size_t bytes, cudaStream_t stream);
void copy_to_host(void* to, const void* from, std::size_t bytes, cudaStream_t stream);
void synchronize(cudaStream_t stream);

}  // namespace wanrt::impl
