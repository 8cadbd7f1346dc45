// Contexts of split engines: what the prompt and the image alone decide, computed once for both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
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

struct Context {
  Made values;  // by name what the graph of every forward reads
  double seconds = 0;
  std::uint64_t generation = 0;       // of the adapters and strengths that it was made with
  std::shared_ptr<const char> owner;  // the engine's mark; held, so that no later engine has it too

  [[nodiscard]] std::size_t bytes() const;
};

// Counts the changes of adapters and strengths that make contexts stale.
class Generations {
 public:
  // What adapters change of the context graph's layers, and by how much; at strength 0 none does.
  using Effects = std::vector<std::pair<float, std::map<std::string, const Matrix*>>>;

  explicit Generations(const Manifest& manifest);

  [[nodiscard]] std::uint64_t current() const noexcept { return current_; }
  [[nodiscard]] const std::shared_ptr<const char>& owner() const noexcept { return owner_; }

  // The effects refer to the stack's matrices.
  [[nodiscard]] Effects effects_of(const Stack& stack) const;

  // Begin another generation if a layer of the context graph computes something else.
  void change(const Effects& before, const Effects& after);

  // Refuse a context of another engine, or one of earlier adapters or strengths. Throws Error.
  void check(const Context& context) const;

 private:
  std::set<std::string> names_;
  std::uint64_t current_ = 0;
  std::shared_ptr<const char> owner_ = std::make_shared<const char>('\0');
};

// Check that a context's tensors are those that a graph reads, in the sizes of its other inputs.
// Throws Error.
void check_context(const Context& context, const Graph& graph, Symbols& symbols);

}  // namespace wanrt::impl
