#include "engine.h"

#include <algorithm>
#include <chrono>
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

std::string names_of(const std::vector<const TensorSpec*>& specs) {
  std::string names;
  for (const TensorSpec* spec : specs) {
    names += (names.empty() ? "" : ", ") + spec->name;
  }
  return names;
}

void check_adapter_inputs(const Manifest& manifest) {
  for (const TensorSpec* spec : manifest.adapter_inputs()) {
    const Shape shape = resolve_shape(spec->shape, {});
    if (shape.size() != 2 || !is_known(shape) || !is_adapter(spec->role)) {
      refuse("adapter input " + spec->name + " has shape " + show_shape(spec->shape));
    }
  }
}

// Whether an input is fed by adapters, in whichever graph.
bool is_fed(const Manifest& manifest, const std::string& name) {
  return std::any_of(manifest.graphs.begin(), manifest.graphs.end(), [&](const auto& entry) {
    const auto& inputs = entry.second.inputs;
    return std::any_of(inputs.begin(), inputs.end(), [&](const TensorSpec& spec) {
      return spec.name == name && (is_adapter(spec.role) || spec.role == Role::strengths);
    });
  });
}

std::set<Role> every_role() { return {Role::lora_a, Role::lora_b, Role::strengths}; }

}  // namespace

Engine::Engine(const Folder& folder, const Options& options)
    : folder_(folder), options_(options), generations_(folder.manifest) {
  options_.progress = nullptr;  // the caller's for this call alone
  const Manifest& manifest = folder.manifest;
  const std::string unsupported = find_unsupported(manifest);
  if (!unsupported.empty()) {
    throw Error(WANRT_UNSUPPORTED, "this engine " + unsupported, "upgrade libwanrt");
  }
  const bool by_ort = manifest.backend == "onnxruntime";
  if (by_ort && !manifest.quantization.empty() && options.device == WANRT_CUDA) {
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
  check_adapter_inputs(manifest);
  data_ = list_data(manifest.forward());
  if (manifest.is_split()) {
    context_data_ = list_data(*manifest.context());
  }
  for (const TensorSpec& spec : manifest.forward().outputs) {
    outputs_.emplace_back();
    outputs_.back().spec = &spec;
  }
  forward_ = LoadedGraph(manifest.forward());
  check_contents(folder);
  forward_.load(load_backend(folder, manifest.forward(), options));
}

std::shared_ptr<const Context> Engine::prepare(const std::map<std::string, View>& inputs) {
  require_split();
  check_names(inputs, context_data_);
  Symbols symbols;
  return make_context(read_prompt(inputs, symbols));
}

// Check what a context is made of, and take it from all inputs; of a one-graph engine nothing.
std::map<std::string, View> Engine::read_prompt(const std::map<std::string, View>& inputs,
                                                Symbols& symbols) const {
  std::map<std::string, View> prompt;
  for (const TensorSpec* spec : context_data_) {
    const View& view = inputs.at(spec->name);
    check_input(*spec, view, symbols);
    prompt[spec->name] = view;
  }
  return prompt;
}

std::shared_ptr<const Context> Engine::make_context(const std::map<std::string, View>& prompt) {
  const auto start = std::chrono::steady_clock::now();
  const LoadedGraph& graph = open_context();
  for (const auto& [name, view] : prompt) {
    graph.backend().bind_input(name, view);
  }
  Context context;
  context.values = graph.backend().make_outputs();
  if (options_.device != WANRT_CPU) {
    context_.reset();  // its weights, which no forward reads, leave the device
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  context.seconds = seconds.count();
  context.generation = generations_.current();
  context.owner = generations_.owner();
  return std::make_shared<const Context>(std::move(context));
}

LoadedGraph& Engine::open_context() {
  if (!context_) {
    const Graph& graph = *folder_.manifest.context();
    LoadedGraph loaded(graph);
    loaded.load(open_backend(folder_, graph, options_));
    loaded.feed(stack_, every_role());
    context_ = std::move(loaded);
  }
  return *context_;
}

void Engine::bind(const std::map<std::string, View>& inputs,
                  const std::map<std::string, View>& outputs,
                  std::shared_ptr<const Context> context) {
  const bool prepares = folder_.manifest.is_split() && !context;
  std::map<std::string, View> prompt;
  Symbols symbols;
  if (context) {
    require_split();
    check_names(inputs, data_);
    generations_.check(*context);
  } else {
    check_names(inputs, folder_.manifest.data_inputs());
    prompt = read_prompt(inputs, symbols);
  }
  for (const TensorSpec* spec : data_) {
    check_input(*spec, inputs.at(spec->name), symbols);
  }
  if (context) {
    check_context(*context, folder_.manifest.forward(), symbols);
  }
  check_output_names(outputs);
  for (const Output& output : outputs_) {
    const auto given = outputs.find(output.spec->name);
    if (given != outputs.end()) {
      check_output(*output.spec, given->second, symbols, options_.device);
    }
  }
  check_apart(inputs, outputs, own_outputs());
  if (prepares) {
    context = make_context(prompt);
    check_context(*context, folder_.manifest.forward(), symbols);
  }
  bound_ = false;
  run_ = false;
  for (const TensorSpec* spec : data_) {
    forward_.backend().bind_input(spec->name, inputs.at(spec->name));
  }
  if (context) {
    bind_context(std::move(context));
  }
  for (Output& output : outputs_) {
    const auto given = outputs.find(output.spec->name);
    bind_output(output, symbols, given == outputs.end() ? nullptr : &given->second);
  }
  forward_.backend().finish_bind();
  prompt_ = std::move(prompt);
  own_context_ = prepares;
  bound_ = true;
}

// Bind what a context holds, and hold it. If that fails, nothing is bound.
void Engine::bind_context(std::shared_ptr<const Context> context) {
  bound_ = false;
  for (const auto& [name, view] : context->values.views) {
    forward_.backend().bind_input(name, view);
  }
  bound_context_ = std::move(context);
}

void Engine::require_split() const {
  if (!folder_.manifest.is_split()) {
    refuse(folder_.manifest.name + " has one graph, so there is no context to prepare",
           "build one that has two: wanexport build --split");
  }
}

void Engine::check_names(const std::map<std::string, View>& inputs, const Specs& known) const {
  const std::string hint = "inputs: " + names_of(known);
  for (const auto& [name, view] : inputs) {
    if (is_fed(folder_.manifest, name)) {
      refuse("input " + name + " is the adapter's", "load it with wanrt_swap");
    }
    if (std::none_of(known.begin(), known.end(),
                     [&key = name](const TensorSpec* spec) { return spec->name == key; })) {
      refuse("there is no input " + name, hint);
    }
  }
  for (const TensorSpec* spec : known) {
    if (inputs.count(spec->name) == 0) {
      refuse("input " + spec->name + " is missing", hint);
    }
  }
}

void Engine::check_output_names(const std::map<std::string, View>& outputs) const {
  for (const auto& [name, view] : outputs) {
    const bool known = std::any_of(outputs_.begin(), outputs_.end(),
                                   [&key = name](const auto& o) { return o.spec->name == key; });
    if (!known) {
      refuse("there is no output " + name);
    }
  }
}

void Engine::check_input(const TensorSpec& spec, const View& view, Symbols& symbols) const {
  check_memory("input", spec, view, options_.device);
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
    forward_.backend().make_output(output.spec->name);
    return;
  }
  Buffer own;
  View view;
  if (given != nullptr) {
    view = *given;
  } else {
    std::tie(view, own) = make_memory(*output.spec, shape);
  }
  forward_.backend().bind_output(output.spec->name, view);
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
  View view = forward_.backend().made_output(index);
  const TensorSpec& spec = *outputs_[index].spec;
  if (view.dtype != spec.dtype) {
    refuse("output " + spec.name + " is " + dtype_name(view.dtype) + ", engine.json says " +
           dtype_name(spec.dtype));
  }
  return view;
}

void Engine::forward() {
  require_current();
  forward_.backend().run(false);
  run_ = true;
}

double Engine::time_forward() {
  require_current();
  const double seconds = forward_.backend().time_run();
  run_ = true;
  return seconds;
}

void Engine::swap(const std::vector<wanrt_adapter>& adapters) {
  require_swappable();
  Stack next = read_stack(adapters, folder_, checked_adapters_);
  if (is_merged()) {
    merge(next);
  }
  generations_.change(generations_.effects_of(stack_), generations_.effects_of(next));
  stack_ = std::move(next);
  feed(every_role());
}

void Engine::set_strengths(const std::vector<float>& strengths) {
  require_swappable();
  std::vector<float> before;
  std::transform(stack_.begin(), stack_.end(), std::back_inserter(before),
                 [](const Stacked& one) { return one.strength; });
  const auto effects = generations_.effects_of(stack_);
  impl::set_strengths(stack_, strengths);
  try {
    if (is_merged()) {  // they are part of the weights
      merge(stack_);
    }
    generations_.change(effects, generations_.effects_of(stack_));
    feed({Role::strengths});
  } catch (...) {
    impl::set_strengths(stack_, before);
    throw;
  }
}

// Whether adapters are merged into weights rather than read as inputs.
bool Engine::is_merged() const {
  const auto& plan = folder_.manifest.forward().plan;
  return plan && plan->swap;
}

// Merge a stack into a merged engine's weights; none is what it was built with.
void Engine::merge(const Stack& stack) {
  forward_.backend().merge(
      stack.empty() ? std::nullopt : std::optional(fold(stack, folder_.manifest.adapter_inputs())));
}

// Write a swappable engine's inputs of some roles, in the graphs that are loaded.
void Engine::feed(const std::set<Role>& roles) {
  forward_.feed(stack_, roles);
  if (context_) {
    context_->feed(stack_, roles);
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

// A caller's context that has become stale is refused; the engine's own is made again.
void Engine::require_current() {
  require_bound();
  if (!bound_context_ || bound_context_->generation == generations_.current()) {
    return;
  }
  if (!own_context_) {
    generations_.check(*bound_context_);
  }
  bind_context(make_context(prompt_));
  bound_ = true;
}

}  // namespace wanrt::impl
