// A graph in memory, with the memory of the inputs that adapters feed.
#pragma once

#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "backend.h"
#include "manifest/manifest.h"
#include "stack.h"
#include "tensors.h"

namespace wanrt::impl {

// Zeroed host memory for a tensor. Throws Error if a size isn't known or all are too many.
std::pair<View, Buffer> make_memory(const TensorSpec& spec, const Shape& shape);

class LoadedGraph {
 public:
  LoadedGraph() = default;

  // Make the memory alone: what can't be is refused before weights are loaded.
  explicit LoadedGraph(const Graph& graph);

  void load(std::unique_ptr<Backend> backend);
  [[nodiscard]] Backend& backend() const { return *backend_; }

  // Write a stack into the adapter inputs of some roles.
  void feed(const Stack& stack, const std::set<Role>& roles);

 private:
  struct AdapterInput {
    const TensorSpec* spec = nullptr;
    View view;
    Buffer memory;
  };

  std::vector<AdapterInput> adapter_;
  std::unique_ptr<Backend> backend_;  // freed first: it refers to the memory above
};

}  // namespace wanrt::impl
