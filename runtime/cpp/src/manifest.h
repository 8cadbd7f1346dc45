// engine.json, by the rules of engines/README.md and of Python's wanrt.manifest.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "tensors.h"

namespace wanrt::impl {

enum class Role { data, lora_a, lora_b };

struct TensorSpec {
  std::string name;
  wanrt_dtype dtype = WANRT_FP32;
  std::vector<Dim> shape;
  Role role = Role::data;
  std::string module;  // of an adapter input; may be empty
  std::optional<std::pair<double, double>> range;
};

// A file of the folder, with the size that it must have.
struct FileEntry {
  std::string file;
  std::int64_t bytes = 0;
};

struct Graph {
  FileEntry file;
  std::int64_t weight_bytes = 0;
  std::vector<TensorSpec> inputs, outputs;
};

struct Workload {
  std::string name;
  std::int64_t width = 0, height = 0, frames = 0, batch = 0, tokens = 0;
  std::map<std::string, Shape> shapes;
};

struct WeightFile {
  FileEntry file;
  std::int64_t mtime_ns = 0;
  bool linked = false;  // shares its bytes with a checkpoint or the pool
};

struct Manifest {
  std::string name, model, mode, dtype, backend;
  std::int64_t rank = 0, max_rank = 0;  // 0: none
  bool random_weights = false, full_finetune = false;
  std::map<std::string, Graph> graphs;
  std::vector<Workload> workloads;
  std::vector<WeightFile> weights;
  std::vector<FileEntry> adapters;

  [[nodiscard]] const Graph& forward() const { return graphs.at("forward"); }
  [[nodiscard]] std::uint64_t weight_bytes() const;
  [[nodiscard]] const Workload* find_workload(std::string_view wanted) const;
  [[nodiscard]] std::string workload_names() const;
};

// Every file of the folder but engine.json itself.
std::vector<FileEntry> list_files(const Manifest& manifest);

// Parse engine.json's text; `where` names it in errors. Throws Error(WANRT_MANIFEST_ERROR).
Manifest parse_manifest(std::string_view text, const std::string& where);

}  // namespace wanrt::impl
