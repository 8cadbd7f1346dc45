// What executes an engine's graph, and the choice of it.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "adapter.h"
#include "manifest/folder.h"
#include "tensors.h"

namespace wanrt::impl {

struct Options {
  wanrt_device device = WANRT_CPU;
  int device_id = 0;
  int threads = 0;  // 0: the backend asks `usable_cores`
  bool mapped = false;
  std::string workload;               // empty: any
  void* stream = nullptr;             // the caller's; null: the backend's own
  bool no_graph = false;              // TensorRT: put every forward on the stream by itself
  wanrt_progress progress = nullptr;  // null: not called
  void* progress_context = nullptr;
};

// Tensors that a backend made, in its device's memory, which lives as long as `memory`.
struct Made {
  std::map<std::string, View> views;
  std::shared_ptr<const void> memory;
};

// One loaded graph. Everything throws Error; memory that is bound outlives the next bind of its
// name, and names, dtypes and shapes have been checked against the manifest.
class Backend {
 public:
  Backend() = default;
  virtual ~Backend() = default;
  Backend(const Backend&) = delete;
  Backend& operator=(const Backend&) = delete;
  Backend(Backend&&) = delete;
  Backend& operator=(Backend&&) = delete;

  // Read an input from this memory at each run. ONNX Runtime copies host memory for a GPU here:
  // whoever writes new values into it binds it again.
  virtual void bind_input(const std::string& name, const View& view) = 0;

  // Take an adapter input's values from this host memory; they change with the next call alone.
  virtual void load_adapter(const std::string& name, const View& view) { bind_input(name, view); }

  // Write an output to this memory at each run.
  virtual void bind_output(const std::string& name, const View& view) = 0;

  // Let the backend make host memory for an output at each run; `made_output` tells it afterwards.
  virtual void make_output(const std::string& name) = 0;
  virtual View made_output(std::size_t index) = 0;

  // All inputs and outputs have been bound.
  virtual void finish_bind() {}

  // Run the graph on what is bound: `complete` until outputs are there, else until it has been put
  // on the stream.
  virtual void run(bool complete) = 0;

  // Run the graph on its bound inputs until outputs are there, and hand all of them out. They
  // outlive the backend; what was bound to its outputs isn't any more.
  virtual Made make_outputs();

  // Run the graph until outputs are there; return the seconds that it took.
  virtual double time_run();

  // Exchange a merged engine's adapter in place; without one, go back to the one that it was built
  // with. A failure leaves the previous one.
  virtual void merge(std::optional<Adapter> adapter);
};

// Check that the manifest's backend is compiled in and can run the engine here, then load one of
// its graphs.
std::unique_ptr<Backend> open_backend(const Folder& folder, const Graph& graph,
                                      const Options& options);

// The backends compiled in, separated by spaces.
const char* list_backends();

}  // namespace wanrt::impl
