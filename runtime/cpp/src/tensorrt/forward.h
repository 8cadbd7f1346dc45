// Running a plan: memory, profile, addresses, the CUDA graph.
#pragma once

#include <NvInfer.h>

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "tensorrt/cuda.h"
#include "tensorrt/runtime.h"

namespace wanrt::impl {

// A tensor as a forward reads or writes it, in device memory.
struct Placed {
  void* address = nullptr;
  Shape shape;

  bool operator==(const Placed& other) const {
    return address == other.address && shape == other.shape;
  }
};

using PlacedTensors = std::map<std::string, Placed>;

// A plan's context with what it needs to run. A context's own memory is the caller's, here: it
// grows to what the shapes in use take, not to what the largest profile takes.
class Forward {
 public:
  // `engine` must outlive this. With `graph` forwards are captured once and launched as one.
  Forward(TensorRt& tensorrt, nvinfer1::ICudaEngine& engine, bool graph);

  // Take these inputs and outputs from now on. What ran before must have ended.
  void place(const PlacedTensors& inputs, const PlacedTensors& outputs, int profile);

  // Capture the graph, if a forward on the placed tensors has warmed them up.
  void prepare();

  // Put one forward on a stream.
  void enqueue(cudaStream_t stream);

  // The engine's weights have changed: warm up and capture again.
  void forget_graph();

 private:
  void set_shapes(const PlacedTensors& inputs, const PlacedTensors& outputs);
  void set_memory();
  void set_addresses(const PlacedTensors& tensors);

  TensorRt& tensorrt_;
  nvinfer1::ICudaEngine& engine_;
  Stream stream_ = make_stream();  // a graph can't be captured on every stream of a caller's
  DeviceMemory memory_;
  PlanContext context_;  // freed before the memory that it uses
  GraphExec graph_;
  bool capture_, warm_ = false;
  PlacedTensors inputs_, outputs_;
  int profile_ = -1;
};

}  // namespace wanrt::impl
