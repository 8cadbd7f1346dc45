#include "tensorrt/forward.h"

#include <algorithm>

#include "error.h"

namespace wanrt::impl {

namespace {

nvinfer1::Dims to_dims(const Shape& shape) {
  nvinfer1::Dims dims = {};
  dims.nbDims = static_cast<std::int32_t>(shape.size());
  std::copy(shape.begin(), shape.end(), std::begin(dims.d));
  return dims;
}

Shape to_shape(const nvinfer1::Dims& dims) {
  return {std::begin(dims.d), std::begin(dims.d) + std::max(dims.nbDims, 0)};
}

}  // namespace

Forward::Forward(TensorRt& tensorrt, nvinfer1::ICudaEngine& engine, bool graph)
    : tensorrt_(tensorrt),
      engine_(engine),
      context_(engine.createExecutionContext(
          nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED)),
      capture_(graph) {
  if (!context_) {
    tensorrt_.fail("can't make a context");
  }
}

void Forward::place(const PlacedTensors& inputs, const PlacedTensors& outputs, int profile) {
  if (profile == profile_ && inputs == inputs_ && outputs == outputs_) {
    return;
  }
  forget_graph();
  inputs_.clear();  // what fails below is tried again by the next call
  if (profile != profile_) {
    profile_ = -1;
    if (!context_->setOptimizationProfileAsync(profile, stream_.get())) {
      tensorrt_.fail("refuses profile " + std::to_string(profile));
    }
    synchronize(stream_.get());
    profile_ = profile;
  }
  set_shapes(inputs, outputs);
  set_memory();
  set_addresses(inputs);
  set_addresses(outputs);
  inputs_ = inputs;
  outputs_ = outputs;
}

void Forward::set_shapes(const PlacedTensors& inputs, const PlacedTensors& outputs) {
  for (const auto& [name, input] : inputs) {
    if (!context_->setInputShape(name.c_str(), to_dims(input.shape))) {
      tensorrt_.fail("refuses " + show_shape(input.shape) + " as the shape of " + name);
    }
  }
  if (context_->inferShapes(0, nullptr) != 0) {
    tensorrt_.fail("can't tell the outputs' shapes");
  }
  for (const auto& [name, output] : outputs) {
    const Shape shape = to_shape(context_->getTensorShape(name.c_str()));
    if (shape != output.shape) {
      tensorrt_.fail("writes " + name + " of shape " + show_shape(shape) + ", engine.json says " +
                     show_shape(output.shape));
    }
  }
}

void Forward::set_memory() {
  std::size_t bytes = context_->updateDeviceMemorySizeForShapes();
  if (bytes == 0) {  // it says so of an error too
    bytes = static_cast<std::size_t>(engine_.getDeviceMemorySizeForProfileV2(profile_));
  }
  if (bytes > memory_.size() || memory_.data() == nullptr) {
    memory_ = DeviceMemory();  // never both
    memory_ = DeviceMemory(bytes);
  }
  context_->setDeviceMemoryV2(memory_.data(), static_cast<std::int64_t>(memory_.size()));
}

void Forward::set_addresses(const PlacedTensors& tensors) {
  for (const auto& [name, tensor] : tensors) {
    if (!context_->setTensorAddress(name.c_str(), tensor.address)) {
      tensorrt_.fail("refuses the memory of " + name);
    }
  }
}

void Forward::prepare() {
  if (!capture_ || !warm_ || graph_) {
    return;
  }
  check_cuda(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal),
             "begin to capture a graph");
  const bool enqueued = context_->enqueueV3(stream_.get());
  cudaGraph_t raw = nullptr;
  const cudaError_t captured = cudaStreamEndCapture(stream_.get(), &raw);
  const CapturedGraph graph(raw);
  if (!enqueued || captured != cudaSuccess) {
    cudaGetLastError();
    const std::string why =
        captured == cudaSuccess ? "" : std::string(": ") + cudaGetErrorString(captured);
    throw Error(WANRT_ENGINE_ERROR, "this engine can't be captured as a CUDA graph" + why,
                "open it with no_graph (wanrt-host --no-graph)");
  }
  cudaGraphExec_t exec = nullptr;
  check_cuda(cudaGraphInstantiate(&exec, graph.get(), 0), "make a graph");
  graph_.reset(exec);
}

void Forward::enqueue(cudaStream_t stream) {
  if (graph_) {
    check_cuda(cudaGraphLaunch(graph_.get(), stream), "launch the graph");
    return;
  }
  if (!context_->enqueueV3(stream)) {
    tensorrt_.fail("can't run");
  }
  warm_ = true;
}

void Forward::forget_graph() {
  graph_.reset();
  warm_ = false;
}

}  // namespace wanrt::impl
