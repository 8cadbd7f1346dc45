#include "engine.h"

#include <algorithm>
#include <iterator>
#include <tuple>
#include <utility>

#include "adapter.h"
#include "bindings.h"
#include "error.h"
#include "loading.h"
#include "manifest/contents.h"
#include "manifest/unsupported.h"

namespace wanrt::impl {

namespace {

[[noreturn]] void refuse(const std::string& message, const std::string& hint = "") {
  throw Error(WANRT_ENGINE_ERROR, message, hint);
}

std::string names_of(const std::map<std::string, const TensorSpec*>& specs) {
  std::string names;
  for (const auto& [name, spec] : specs) {
    names += (names.empty() ? "" : ", ") + name;
  }
  return names;
}

std::pair<View, Buffer> make_memory(const TensorSpec& spec, const Shape& shape) {
  const auto bytes = tensor_bytes(shape, dtype_bytes(spec.dtype));
  if (!bytes) {
    refuse(spec.name + " can't have shape " + show_shape(shape));
  }
  Buffer memory(*bytes);
  View view{spec.dtype, WANRT_HOST, shape, memory.data(), *bytes};
  return {std::move(view), std::move(memory)};
}

}  // namespace

Engine::Engine(const Folder& folder, const Options& options)
    : folder_(folder), device_(options.device) {
  const Manifest& manifest = folder.manifest;
  const std::string unsupported = find_unsupported(manifest);
  if (!unsupported.empty()) {
    throw Error(WANRT_UNSUPPORTED, "this engine " + unsupported, "upgrade libwanrt");
  }
  if (!manifest.quantization.empty() && options.device == WANRT_CUDA) {
    throw Error(WANRT_UNSUPPORTED,
                "ONNX Runtime has no " + manifest.quantization +
                    " products on CUDA: it would run them on the CPU",
                "run it on the CPU");
  }
  if (!options.workload.empty()) {
    workload_ = manifest.find_workload(options.workload);
    if (workload_ == nullptr) {
      refuse(folder.path + " has no workload '" + options.workload + "'",
             "it has: " + manifest.workload_names());
    }
  }
  for (const TensorSpec* spec : manifest.adapter_inputs()) {
    const Shape shape = resolve_shape(spec->shape, {});
    if (shape.size() != 2 || !is_known(shape) || !is_adapter(spec->role)) {
      refuse("adapter input " + spec->name + " has shape " + show_shape(spec->shape));
    }
  }
  for (const TensorSpec& spec : manifest.forward().inputs) {
    if (spec.role == Role::data) {
      data_[spec.name] = &spec;
      continue;
    }
    auto [view, memory] = make_memory(spec, resolve_shape(spec.shape, {}));
    adapter_.push_back({&spec, std::move(view), std::move(memory)});
  }
  for (const TensorSpec& spec : manifest.forward().outputs) {
    outputs_.emplace_back();
    outputs_.back().spec = &spec;
  }
  check_contents(folder);
  backend_ = load_backend(folder, options);
  for (const AdapterInput& input : adapter_) {
    backend_->load_adapter(input.spec->name, input.view);
  }
}

void Engine::bind(const std::map<std::string, View>& inputs,
                  const std::map<std::string, View>& outputs) {
  check_names(inputs, outputs);
  Symbols symbols;
  for (const auto& [name, spec] : data_) {
    check_input(*spec, inputs.at(name), symbols);
  }
  for (const Output& output : outputs_) {
    const auto given = outputs.find(output.spec->name);
    if (given != outputs.end()) {
      check_output(*output.spec, given->second, symbols, device_);
    }
  }
  check_apart(inputs, outputs, own_outputs());
  bound_ = false;
  run_ = false;
  for (const auto& [name, view] : inputs) {
    backend_->bind_input(name, view);
  }
  for (Output& output : outputs_) {
    const auto given = outputs.find(output.spec->name);
    bind_output(output, symbols, given == outputs.end() ? nullptr : &given->second);
  }
  backend_->finish_bind();
  bound_ = true;
}

void Engine::check_names(const std::map<std::string, View>& inputs,
                         const std::map<std::string, View>& outputs) const {
  const std::string hint = "inputs: " + names_of(data_);
  for (const auto& [name, view] : inputs) {
    const bool fed = std::any_of(adapter_.begin(), adapter_.end(),
                                 [&key = name](const auto& one) { return one.spec->name == key; });
    if (fed) {
      refuse("input " + name + " is the adapter's", "load it with wanrt_swap");
    }
    if (data_.count(name) == 0) {
      refuse("there is no input " + name, hint);
    }
  }
  for (const auto& [name, spec] : data_) {
    if (inputs.count(name) == 0) {
      refuse("input " + name + " is missing", hint);
    }
  }
  for (const auto& [name, view] : outputs) {
    const bool known = std::any_of(outputs_.begin(), outputs_.end(),
                                   [&key = name](const auto& o) { return o.spec->name == key; });
    if (!known) {
      refuse("there is no output " + name);
    }
  }
}

void Engine::check_input(const TensorSpec& spec, const View& view, Symbols& symbols) const {
  check_memory("input", spec, view, device_);
  if (!match_shape(spec.shape, view.shape, symbols)) {
    refuse("input " + spec.name + " has shape " + show_shape(view.shape) + ", the engine takes " +
           show_shape(spec.shape, symbols));
  }
  if (workload_ == nullptr) {
    return;
  }
  const auto want = workload_->shapes.find(spec.name);
  if (want != workload_->shapes.end() && want->second != view.shape) {
    refuse("input " + spec.name + " has shape " + show_shape(view.shape) + ", the workload's is " +
           show_shape(want->second));
  }
}

// What the engine keeps may be freed by a bind, and is written by forwards after it.
std::map<std::string, View> Engine::own_outputs() const {
  std::map<std::string, View> own;
  for (const Output& output : outputs_) {
    if (output.own.size() > 0) {
      own[output.spec->name] = output.view;
    }
  }
  return own;
}

void Engine::bind_output(Output& output, const Symbols& symbols, const View* given) {
  const Shape shape = resolve_shape(output.spec->shape, symbols);
  const bool kept = output.own.data() != nullptr && output.view.shape == shape;
  if (given == nullptr && kept) {
    return;
  }
  output.own = Buffer();
  output.made = given == nullptr && !is_known(shape);
  if (output.made) {
    backend_->make_output(output.spec->name);
    return;
  }
  Buffer own;
  View view;
  if (given != nullptr) {
    view = *given;
  } else {
    std::tie(view, own) = make_memory(*output.spec, shape);
  }
  backend_->bind_output(output.spec->name, view);
  output.view = std::move(view);
  output.own = std::move(own);
}

View Engine::output(std::size_t index) {
  if (index >= outputs_.size()) {
    throw Error(WANRT_USAGE_ERROR, "there is no output " + std::to_string(index));
  }
  require_bound();
  if (!outputs_[index].made) {
    return outputs_[index].view;
  }
  if (!run_) {
    refuse("output " + outputs_[index].spec->name + " has no memory before the first forward");
  }
  View view = backend_->made_output(index);
  const TensorSpec& spec = *outputs_[index].spec;
  if (view.dtype != spec.dtype) {
    refuse("output " + spec.name + " is " + dtype_name(view.dtype) + ", engine.json says " +
           dtype_name(spec.dtype));
  }
  return view;
}

void Engine::forward() {
  require_bound();
  backend_->run(false);
  run_ = true;
}

double Engine::time_forward() {
  require_bound();
  const double seconds = backend_->time_run();
  run_ = true;
  return seconds;
}

void Engine::swap(const std::vector<wanrt_adapter>& adapters) {
  require_swappable();
  Stack next = read_stack(adapters, folder_, checked_adapters_);
  if (adapter_.empty()) {
    merge(next);
  }
  stack_ = std::move(next);
  feed({Role::lora_a, Role::lora_b, Role::strengths});
}

void Engine::set_strengths(const std::vector<float>& strengths) {
  require_swappable();
  std::vector<float> before;
  std::transform(stack_.begin(), stack_.end(), std::back_inserter(before),
                 [](const Stacked& one) { return one.strength; });
  impl::set_strengths(stack_, strengths);
  try {
    if (adapter_.empty()) {  // they are part of the weights
      merge(stack_);
    }
    feed({Role::strengths});
  } catch (...) {
    impl::set_strengths(stack_, before);
    throw;
  }
}

// Merge a stack into a merged engine's weights; none is what it was built with.
void Engine::merge(const Stack& stack) {
  backend_->merge(stack.empty() ? std::nullopt
                                : std::optional(fold(stack, folder_.manifest.adapter_inputs())));
}

// Write a swappable engine's inputs of some roles.
void Engine::feed(const std::set<Role>& roles) {
  const auto chosen = [&](const AdapterInput& input) { return roles.count(input.spec->role) > 0; };
  for (const AdapterInput& input : adapter_) {
    if (chosen(input)) {
      write_slots(stack_, *input.spec, input.view);
    }
  }
  for (const AdapterInput& input : adapter_) {
    if (chosen(input)) {
      backend_->load_adapter(input.spec->name, input.view);
    }
  }
}

void Engine::require_swappable() const {
  const Manifest& manifest = folder_.manifest;
  if (manifest.adapter_inputs().empty()) {
    refuse(folder_.path + " is a " + manifest.mode + " engine, its adapter is fixed",
           "build one that can swap: wanexport build --mode swappable --rank 32");
  }
}

void Engine::require_bound() const {
  if (!bound_) {
    refuse("no inputs are bound", "call wanrt_bind first");
  }
}

}  // namespace wanrt::impl
