// A graph's serialized TensorRT engine, as engine.json describes it.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "tensors.h"

namespace wanrt::impl {

// A file of the folder, with the size and hash that it must have.
struct FileEntry {
  std::string file;
  std::int64_t bytes = 0;
  std::string sha256;
};

// Who feeds an input: the caller, the adapter, the context graph or the runtime.
enum class Role { data, lora_a, lora_b, strengths, context, card };

inline bool is_adapter(Role role) { return role == Role::lora_a || role == Role::lora_b; }

struct TensorSpec {
  std::string name;
  wanrt_dtype dtype = WANRT_FP32;
  std::vector<Dim> shape;
  Role role = Role::data;
  std::string module;  // of an adapter input; may be empty
  std::optional<std::pair<double, double>> range;
};

// The bytes of a weight file that hold one initializer.
struct WeightRange {
  std::string file;
  std::int64_t offset = 0, bytes = 0;
  wanrt_dtype dtype = WANRT_FP32;
};

using WeightRanges = std::map<std::string, WeightRange>;

// A plan that merges one matrix [rows, columns]: weight + B A.
struct MergePlan {
  FileEntry file;
  std::int64_t rows = 0, columns = 0, max_rank = 0;
};

// How a merged engine exchanges its adapter in place.
struct Swap {
  std::vector<TensorSpec> inputs;
  WeightRanges base;
  std::vector<MergePlan> merges;
};

struct Plan {
  FileEntry file;
  std::string library, hardware_compatibility, refit;
  std::optional<std::string> gpu;
  std::vector<std::string> compute_capabilities, profiles;
  bool version_compatible = false;
  WeightRanges weights;
  std::optional<Swap> swap;
  std::optional<FileEntry> layers;
};

}  // namespace wanrt::impl
