// CUDA's runtime, as far as the backend calls it.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <utility>
#include <vector>

#include "fake.h"

using Work = std::vector<std::function<void()>>;

struct CUstream_st {
  Work waiting, captured;
  bool capturing = false;
};
struct CUevent_st {
  double at = 0;
};
struct CUgraph_st {
  Work work;
};
struct CUgraphExec_st {
  Work work;
};

namespace {

constexpr std::size_t kAlignment = 256;
constexpr double kForwardMs = 2;

std::map<std::uintptr_t, std::size_t>& allocations() {
  static std::map<std::uintptr_t, std::size_t> all;
  return all;
}

double& clock_ms() {
  static double now = 0;
  return now;
}

cudaError_t status(const char* function) {
  return fake::fails(function) ? cudaErrorUnknown : cudaSuccess;
}

void finish(cudaStream_t stream) {
  const Work work = std::exchange(stream->waiting, {});
  for (const auto& one : work) {
    one();
  }
}

}  // namespace

namespace fake {

State& state() {
  static State state;
  return state;
}

bool fails(const char* function) {
  State& all = state();
  if (all.failing != function) {
    return false;
  }
  if (--all.times == 0) {
    all.failing.clear();
    all.times = 1;
  }
  return true;
}

bool is_device(const void* data, std::size_t bytes) {
  const auto address = reinterpret_cast<std::uintptr_t>(data);
  auto found = allocations().upper_bound(address);
  if (found == allocations().begin()) {
    return false;
  }
  --found;
  return address + bytes <= found->first + found->second;
}

void put(cudaStream_t stream, std::function<void()> work) {
  (stream->capturing ? stream->captured : stream->waiting).push_back(std::move(work));
}

void pass_time() { clock_ms() += kForwardMs; }

}  // namespace fake

#define API extern "C" FAKE_API

API const char* CUDARTAPI cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorInvalidDevice:
      return "invalid device ordinal";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    default:
      return "unknown error";
  }
}

API cudaError_t CUDARTAPI cudaGetLastError() { return cudaSuccess; }

API cudaError_t CUDARTAPI cudaGetDevice(int* device) {
  *device = 0;
  return fake::state().devices > 0 ? cudaSuccess : cudaErrorNoDevice;
}

API cudaError_t CUDARTAPI cudaSetDevice(int device) {
  return device < fake::state().devices ? cudaSuccess : cudaErrorInvalidDevice;
}

API cudaError_t CUDARTAPI cudaGetDeviceProperties(cudaDeviceProp* facts, int) {
  const fake::State& machine = fake::state();
  std::copy_n(machine.gpu.c_str(), machine.gpu.size() + 1, facts->name);
  facts->major = machine.major;
  facts->minor = machine.minor;
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaMalloc(void** data, std::size_t bytes) {
  if (fake::fails("cudaMalloc")) {
    return cudaErrorMemoryAllocation;
  }
  const std::size_t whole = (bytes + kAlignment - 1) / kAlignment * kAlignment;
  *data = std::aligned_alloc(kAlignment, whole);
  std::memset(*data, 0xA5, whole);
  allocations()[reinterpret_cast<std::uintptr_t>(*data)] = bytes;
  fake::State& all = fake::state();
  all.device_bytes += bytes;
  all.most_device_bytes = std::max(all.most_device_bytes, all.device_bytes);
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaFree(void* data) {
  const auto found = allocations().find(reinterpret_cast<std::uintptr_t>(data));
  if (found != allocations().end()) {
    fake::state().device_bytes -= found->second;
    allocations().erase(found);
  }
  std::free(data);
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaMemcpyAsync(void* to, const void* from, std::size_t bytes,
                                          cudaMemcpyKind kind, cudaStream_t stream) {
  const void* device = kind == cudaMemcpyHostToDevice ? to : from;
  if (fake::fails("cudaMemcpyAsync") || !fake::is_device(device, bytes)) {
    return cudaErrorUnknown;
  }
  fake::put(stream, [=] { std::memmove(to, from, bytes); });
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned int) {
  *stream = std::make_unique<CUstream_st>().release();
  return status("cudaStreamCreateWithFlags");
}

API cudaError_t CUDARTAPI cudaStreamDestroy(cudaStream_t stream) {
  finish(stream);
  std::unique_ptr<CUstream_st>(stream).reset();
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaStreamSynchronize(cudaStream_t stream) {
  finish(stream);
  return status("cudaStreamSynchronize");
}

API cudaError_t CUDARTAPI cudaEventCreateWithFlags(cudaEvent_t* event, unsigned int) {
  *event = std::make_unique<CUevent_st>().release();
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaEventDestroy(cudaEvent_t event) {
  std::unique_ptr<CUevent_st>(event).reset();
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  fake::put(stream, [event] { event->at = clock_ms(); });
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaEventElapsedTime(float* milliseconds, cudaEvent_t from,
                                               cudaEvent_t to) {
  *milliseconds = static_cast<float>(to->at - from->at);
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->capturing = true;
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  stream->capturing = false;
  *graph = std::make_unique<CUgraph_st>(CUgraph_st{std::exchange(stream->captured, {})}).release();
  ++fake::state().captures;
  return status("cudaStreamEndCapture");
}

API cudaError_t CUDARTAPI cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph,
                                               unsigned long long) {
  *exec = std::make_unique<CUgraphExec_st>(CUgraphExec_st{graph->work}).release();
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaGraphDestroy(cudaGraph_t graph) {
  std::unique_ptr<CUgraph_st>(graph).reset();
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaGraphExecDestroy(cudaGraphExec_t exec) {
  std::unique_ptr<CUgraphExec_st>(exec).reset();
  return cudaSuccess;
}

API cudaError_t CUDARTAPI cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
  for (const auto& one : exec->work) {
    fake::put(stream, one);
  }
  ++fake::state().launches;
  return cudaSuccess;
}
