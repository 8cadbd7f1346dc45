// A stand-in for TensorRT and CUDA's runtime that computes on a CPU, to run the backend's own code
// without a GPU. It is stricter than they are where that finds mistakes: a stream does nothing
// before somebody waits for it, device memory is told from host memory, a graph from before a refit
// doesn't run, and what the backend isn't known to call stops the program.
//
// A plan is JSON: y = x + the sum of all other inputs but `timestep` + the sum of all weights; a
// merge plan ("kind": "merge") computes merged = weight + B A.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <string>

#define FAKE_API __attribute__((visibility("default")))

namespace fake {

struct State {
  // what this machine is
  int devices = 1;
  std::string gpu = "Fake GPU";
  int major = 9, minor = 0;
  int version[4] = {0, 0, 0, 0};  // of the TensorRT library; all 0: the headers'

  // what was done
  int captures = 0, launches = 0, enqueues = 0, refits = 0, refitted = 0, merges = 0;
  std::size_t device_bytes = 0, most_device_bytes = 0;
  bool host_code_allowed = false;

  // the next so many calls of this function fail
  std::string failing;
  int times = 1;
};

FAKE_API State& state();

// Whether a call of `function` is to fail.
FAKE_API bool fails(const char* function);

// Whether all these bytes are device memory.
FAKE_API bool is_device(const void* data, std::size_t bytes);

// Put work on a stream, or into the graph that it captures.
FAKE_API void put(cudaStream_t stream, std::function<void()> work);

// Let a forward's time pass on the clock that events read.
FAKE_API void pass_time();

}  // namespace fake
