// engine.json, by the rules of engines/README.md and of Python's wanrt.manifest.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "manifest/plan.h"
#include "tensors.h"

namespace wanrt::impl {

struct Graph {
  FileEntry file;
  std::int64_t weight_bytes = 0;
  std::vector<TensorSpec> inputs, outputs;
  std::optional<Plan> plan;
  std::optional<FileEntry> emulated;  // the same graph for a CPU that lacks its dtype
};

// The inputs that a caller feeds to a graph, in its order.
std::vector<const TensorSpec*> list_data(const Graph& graph);

struct Workload {
  std::string name;
  std::int64_t width = 0, height = 0, frames = 0, batch = 0, tokens = 0;
  std::map<std::string, Shape> shapes;
  bool context = false;  // whether it counts a context graph apart
};

struct WeightFile {
  FileEntry file;
  std::int64_t mtime_ns = 0;
  bool linked = false;     // shares its bytes with a checkpoint or the pool
  bool constants = false;  // of the graph; nobody's weights
};

struct Manifest {
  std::string name, model, mode, dtype, backend;
  std::int64_t rank = 0, max_rank = 0;  // 0: none
  bool random_weights = false, full_finetune = false;
  std::string lora_form, expert, quantization;  // the last is its scheme; empty: none
  std::int64_t cards = 1;
  std::map<std::string, Graph> graphs;
  std::vector<Workload> workloads;
  std::vector<WeightFile> weights;
  std::vector<FileEntry> adapters;

  // The graph of one forward; of a split engine, the one that every forward runs.
  [[nodiscard]] const Graph& forward() const {
    return graphs.at(is_split() ? "denoise" : "forward");
  }
  [[nodiscard]] bool is_split() const { return graphs.count("context") == 1; }
  // The graph that is run once per prompt; null: every forward computes all of it.
  [[nodiscard]] const Graph* context() const;
  [[nodiscard]] std::uint64_t weight_bytes() const;

  // What a caller feeds: to the graph of every forward first, then to a context graph.
  [[nodiscard]] std::vector<const TensorSpec*> data_inputs() const;

  // The matrices that an adapter for this engine may hold; none: it can't swap.
  [[nodiscard]] std::vector<const TensorSpec*> adapter_inputs() const;
  [[nodiscard]] const Workload* find_workload(std::string_view wanted) const;
  [[nodiscard]] std::string workload_names() const;
};

// Every file of the folder but engine.json itself.
std::vector<FileEntry> list_files(const Manifest& manifest);

// Parse engine.json's text; `where` names it in errors. Throws Error(WANRT_MANIFEST_ERROR).
Manifest parse_manifest(std::string_view text, const std::string& where);

}  // namespace wanrt::impl
