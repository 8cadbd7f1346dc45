#include "graph.h"

#include <utility>

#include "error.h"

namespace wanrt::impl {

std::pair<View, Buffer> make_memory(const TensorSpec& spec, const Shape& shape) {
  const auto bytes = tensor_bytes(shape, dtype_bytes(spec.dtype));
  if (!bytes) {
    throw Error(WANRT_ENGINE_ERROR, spec.name + " can't have shape " + show_shape(shape));
  }
  Buffer memory(*bytes);
  View view{spec.dtype, WANRT_HOST, shape, memory.data(), *bytes};
  return {std::move(view), std::move(memory)};
}

LoadedGraph::LoadedGraph(const Graph& graph) {
  for (const TensorSpec& spec : graph.inputs) {
    if (is_adapter(spec.role) || spec.role == Role::strengths) {
      auto [view, memory] = make_memory(spec, resolve_shape(spec.shape, {}));
      adapter_.push_back({&spec, std::move(view), std::move(memory)});
    }
  }
}

void LoadedGraph::load(std::unique_ptr<Backend> backend) {
  backend_ = std::move(backend);
  for (const AdapterInput& input : adapter_) {
    backend_->load_adapter(input.spec->name, input.view);
  }
}

void LoadedGraph::feed(const Stack& stack, const std::set<Role>& roles) {
  const auto chosen = [&](const AdapterInput& input) { return roles.count(input.spec->role) > 0; };
  for (const AdapterInput& input : adapter_) {
    if (chosen(input)) {
      write_slots(stack, *input.spec, input.view);
    }
  }
  for (const AdapterInput& input : adapter_) {
    if (chosen(input)) {
      backend_->load_adapter(input.spec->name, input.view);
    }
  }
}

}  // namespace wanrt::impl
