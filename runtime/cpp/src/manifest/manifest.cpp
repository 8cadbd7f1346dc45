#include "manifest/manifest.h"

#include <algorithm>
#include <limits>
#include <set>

#include "error.h"
#include "manifest/fields.h"
#include "manifest/json.h"
#include "manifest/origin_fields.h"
#include "manifest/plan_fields.h"

namespace wanrt::impl {

namespace {

constexpr std::int64_t kSchemaVersion = 1;
// `--force` replaces nothing whose engine.json can't be read
constexpr const char* kAgain = "move the folder away and build the engine again";

std::int64_t read_rank(Object& object, const char* key) {
  const Json* value = object.find(key);
  return value == nullptr ? 0 : read_count(*value, object.place(key), 1);
}

void check_counts(Object& object, const char* key) {
  read_dictionary(object, key, [](const std::string&, const Json& value, const std::string& place) {
    read_count(value, place);
  });
}

void check_texts(Object& object, const char* key) {
  read_dictionary(object, key, [](const std::string&, const Json& value, const std::string& place) {
    read_text(value, place);
  });
}

Graph read_graph(const Json& value, const std::string& place) {
  Object object(value, place);
  Graph graph;
  graph.file = read_file_entry(object);
  graph.weight_bytes = object.count("weight_bytes");
  graph.inputs = read_list(object, "inputs", read_tensor);
  graph.outputs = read_list(object, "outputs", read_tensor);
  if (const Json* plan = object.find("plan")) {
    graph.plan = read_plan(*plan, object.place("plan"));
  }
  if (const Json* emulated = object.find("emulated")) {
    graph.emulated = read_lone_file(*emulated, object.place("emulated"));
  }
  object.done();
  return graph;
}

void check_context_cost(const Json& value, const std::string& place) {
  Object object(value, place);
  check_counts(object, "flops");
  check_counts(object, "bytes");
  object.done();
}

Workload read_workload(const std::string& name, const Json& value, const std::string& place) {
  Object object(value, place);
  Workload workload;
  workload.name = name;
  workload.width = object.count("width");
  workload.height = object.count("height");
  workload.frames = object.count("frames");
  workload.batch = object.count("batch", 1);
  workload.tokens = object.count("tokens", 1);
  read_dictionary(object, "shapes",
                  [&](const std::string& input, const Json& shape, const std::string& where) {
                    const auto size = [](const Json& one, const std::string& at) {
                      return read_count(one, at);
                    };
                    workload.shapes[input] = read_list(shape, where, size);
                  });
  check_counts(object, "flops");
  check_counts(object, "bytes");
  object.count("activation_bytes");
  if (const Json* context = object.find("context")) {
    check_context_cost(*context, object.place("context"));
    workload.context = true;
  }
  object.done();
  return workload;
}

WeightFile read_weight_file(const Json& value, const std::string& place) {
  Object object(value, place);
  WeightFile file;
  file.file = read_file_entry(object);
  file.mtime_ns = object.count("mtime_ns", std::numeric_limits<std::int64_t>::min());
  file.constants = object.choice("origin", {"base", "finetuned", "prefused", "adapter", "merged",
                                            "constants"}) == "constants";
  const std::string storage =
      object.choice("storage", {"reflink", "hardlink", "pool", "copy", "own"});
  file.linked = storage == "hardlink" || storage == "pool" || storage == "own";
  object.done();
  return file;
}

FileEntry read_adapter_file(const Json& value, const std::string& place) {
  Object object(value, place);
  FileEntry file = read_file_entry(object);
  object.count("rank", 1);
  if (object.has("strength")) {
    read_number(object.need("strength"), object.place("strength"));
  }
  if (object.has("stack")) {
    object.count("stack");
  }
  object.done();
  return file;
}

template <typename Items, typename Name>
void once(const char* kind, const Items& items, Name name) {
  std::set<std::string> seen;
  for (const auto& item : items) {
    if (!seen.insert(name(item)).second) {
      refuse_at("engine.json", std::string(kind) + " " + name(item) + " is there twice");
    }
  }
}

// What is wrong with an input that the runtime feeds, adapters apart; `fed` comes of a context
// graph.
std::string_view find_role_problem(const TensorSpec& spec, const std::set<std::string>& fed,
                                   const Manifest& manifest) {
  const std::vector<Dim> one_per_row = {manifest.max_rank};
  if (spec.role == Role::strengths && (spec.dtype != WANRT_FP32 || spec.shape != one_per_row)) {
    return "isn't fp32 of [max_rank]";
  }
  if (spec.role == Role::context && fed.count(spec.name) == 0) {
    return "isn't an output of a context graph";
  }
  if (spec.role == Role::card && manifest.cards == 1) {
    return "is a card's, of an engine for one card";
  }
  return "";
}

void check_roles(const std::string& key, const Graph& graph, const Manifest& manifest) {
  std::set<std::string> fed;
  if (key == "denoise") {
    for (const TensorSpec& spec : manifest.graphs.at("context").outputs) {
      fed.insert(spec.name);
    }
  }
  bool strengths = false;
  for (const TensorSpec& spec : graph.inputs) {
    std::string_view problem = find_role_problem(spec, fed, manifest);
    if (spec.role == Role::strengths && strengths) {
      problem = "is a second of role strengths";
    }
    strengths = strengths || spec.role == Role::strengths;
    if (!problem.empty()) {
      refuse_at("engine.json", "input " + spec.name + " " + std::string(problem));
    }
  }
  if (manifest.mode == "swappable" && !strengths && key == "forward") {
    refuse_at("engine.json", "mode swappable needs an input of role strengths");
  }
}

void check_consistent(const Manifest& manifest) {
  const auto require = [](bool right, const char* problem) {
    if (!right) {
      refuse_at("engine.json", problem);
    }
  };
  std::set<std::string> names;
  for (const auto& [name, graph] : manifest.graphs) {
    names.insert(name);
  }
  require(names == std::set<std::string>{"forward"} ||
              names == std::set<std::string>{"context", "denoise"},
          "graphs are neither 'forward' nor 'context' and 'denoise'");
  require(!manifest.workloads.empty(), "workloads is empty");
  require(manifest.mode != "separate" || manifest.rank > 0, "mode separate needs a rank");
  require(manifest.mode != "swappable" || manifest.max_rank > 0, "mode swappable needs max_rank");
  std::set<std::string> inputs;
  const auto name_of = [](const TensorSpec& spec) { return spec.name; };
  for (const auto& [name, graph] : manifest.graphs) {
    once("input", graph.inputs, name_of);
    once("output", graph.outputs, name_of);
    check_roles(name, graph, manifest);
    check_plan(graph, manifest);
    std::transform(graph.inputs.begin(), graph.inputs.end(), std::inserter(inputs, inputs.end()),
                   name_of);
  }
  once("file", list_files(manifest), [](const FileEntry& entry) { return entry.file; });
  for (const Workload& workload : manifest.workloads) {
    for (const auto& [input, shape] : workload.shapes) {
      if (inputs.count(input) == 0) {
        refuse_at("engine.json",
                  "workload " + workload.name + ": " + input + " isn't an input of a graph");
      }
    }
    if (workload.context != manifest.is_split()) {
      refuse_at("engine.json", "workload " + workload.name + ": with" +
                                   (workload.context ? "" : "out") + " a context, unlike graphs");
    }
  }
}

// What an engine may be like beside its mode; see unsupported.h for what of it can be run.
void read_features(Object& object, Manifest& manifest) {
  read_optional_text(object, "target_set");
  manifest.lora_form = read_optional_choice(object, "lora_form", {"branch", "fused"});
  manifest.expert = read_optional_choice(object, "expert", {"high", "low"});
  if (object.has("prefuse")) {
    read_list(object, "prefuse", check_prefused);
  }
  if (const Json* quantization = object.find("quantization")) {
    manifest.quantization = read_quantization(*quantization, "quantization");
  }
  if (object.has("cards")) {
    manifest.cards = object.count("cards", 1);
  }
}

Manifest read_root(const Document& document) {
  Object object(document.root, "");
  if (object.count("schema_version") != kSchemaVersion) {
    refuse_at("schema_version", "Input should be 1");
  }
  Manifest manifest;
  manifest.name = object.text("name");
  manifest.model = object.text("model");
  manifest.mode = object.choice("mode", {"full", "merged", "separate", "swappable"});
  object.need("rank");
  manifest.rank = read_rank(object, "rank");
  manifest.max_rank = read_rank(object, "max_rank");
  read_list(object, "targets", read_text);
  read_features(object, manifest);
  manifest.dtype = dtype_name(read_dtype(object));
  manifest.backend = object.choice("backend", {"onnxruntime", "tensorrt", "tensorrt-rtx"});
  manifest.random_weights = object.flag("random_weights");
  manifest.full_finetune = object.flag("full_finetune");
  read_dictionary(object, "graphs",
                  [&](const std::string& name, const Json& value, const std::string& place) {
                    manifest.graphs[name] = read_graph(value, place);
                  });
  const Json& workloads = read_object(object.need("workloads"), "workloads");
  if (!workloads.empty()) {
    for (const std::string& name : document.order.at("workloads")) {
      manifest.workloads.push_back(read_workload(name, workloads.at(name), "workloads." + name));
    }
  }
  manifest.weights = read_list(object, "weights", read_weight_file);
  if (object.has("adapters")) {
    manifest.adapters = read_list(object, "adapters", read_adapter_file);
  }
  read_list(object, "sources", check_source);
  read_object(object.need("config"), "config");
  read_list(object, "command", read_text);
  check_texts(object, "compared_by");
  if (object.need("compared_by").empty()) {
    refuse_at("compared_by", "Dictionary should have at least 1 item");
  }
  check_texts(object, "inputs");
  check_texts(object, "tools");
  check_verification(object.need("verification"), "verification");
  object.done();
  check_consistent(manifest);
  return manifest;
}

}  // namespace

std::uint64_t Manifest::weight_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& [key, graph] : graphs) {
    bytes += static_cast<std::uint64_t>(graph.weight_bytes);
  }
  return bytes;
}

const Graph* Manifest::context() const { return is_split() ? &graphs.at("context") : nullptr; }

std::vector<const TensorSpec*> list_data(const Graph& graph) {
  std::vector<const TensorSpec*> specs;
  for (const TensorSpec& spec : graph.inputs) {
    if (spec.role == Role::data) {
      specs.push_back(&spec);
    }
  }
  return specs;
}

std::vector<const TensorSpec*> Manifest::data_inputs() const {
  std::vector<const TensorSpec*> specs = list_data(forward());
  if (const Graph* once = context()) {
    const auto more = list_data(*once);
    specs.insert(specs.end(), more.begin(), more.end());
  }
  return specs;
}

std::vector<const TensorSpec*> Manifest::adapter_inputs() const {
  std::vector<const TensorSpec*> specs;
  if (forward().plan) {
    const Plan& plan = *forward().plan;
    if (plan.swap) {
      for (const TensorSpec& spec : plan.swap->inputs) {
        specs.push_back(&spec);
      }
      return specs;
    }
  }
  for (const auto& [key, graph] : graphs) {
    for (const TensorSpec& spec : graph.inputs) {
      if (is_adapter(spec.role)) {
        specs.push_back(&spec);
      }
    }
  }
  return specs;
}

const Workload* Manifest::find_workload(std::string_view wanted) const {
  const auto found = std::find_if(workloads.begin(), workloads.end(),
                                  [&](const Workload& one) { return one.name == wanted; });
  return found == workloads.end() ? nullptr : &*found;
}

std::string Manifest::workload_names() const {
  std::string names;
  for (const Workload& workload : workloads) {
    names += (names.empty() ? "" : ", ") + workload.name;
  }
  return names;
}

namespace {

void add_files(const Plan& plan, std::vector<FileEntry>& files) {
  files.push_back(plan.file);
  if (plan.swap) {
    for (const MergePlan& merge : plan.swap->merges) {
      files.push_back(merge.file);
    }
  }
  if (plan.layers) {
    files.push_back(*plan.layers);
  }
}

}  // namespace

std::vector<FileEntry> list_files(const Manifest& manifest) {
  std::vector<FileEntry> files;
  for (const auto& [name, graph] : manifest.graphs) {
    files.push_back(graph.file);
    if (graph.emulated) {
      files.push_back(*graph.emulated);
    }
  }
  for (const WeightFile& weights : manifest.weights) {
    files.push_back(weights.file);
  }
  files.insert(files.end(), manifest.adapters.begin(), manifest.adapters.end());
  for (const auto& [name, graph] : manifest.graphs) {
    if (graph.plan) {
      add_files(*graph.plan, files);
    }
  }
  return files;
}

Manifest parse_manifest(std::string_view text, const std::string& where) {
  Document document;
  try {
    document = parse_json(text);
  } catch (const FormatError& error) {
    throw Error(WANRT_MANIFEST_ERROR, where + " is " + error.what(), kAgain);
  }
  if (!document.root.is_object()) {
    throw Error(WANRT_MANIFEST_ERROR, where + " is not a JSON object", kAgain);
  }
  const auto version = document.root.find("schema_version");
  if (version != document.root.end() && version->is_number() &&
      version->get<double>() > kSchemaVersion) {
    throw Error(WANRT_MANIFEST_ERROR,
                where + " has schema version " + version->dump() + ", this libwanrt reads up to " +
                    std::to_string(kSchemaVersion),
                "upgrade libwanrt");
  }
  try {
    return read_root(document);
  } catch (const FormatError& error) {
    throw Error(WANRT_MANIFEST_ERROR, where + ": " + error.what(), kAgain);
  }
}

}  // namespace wanrt::impl
