#include "manifest/plan_fields.h"

#include <algorithm>
#include <string_view>

#include "manifest/fields.h"

namespace wanrt::impl {

namespace {

constexpr const char* kDigits = "0123456789";

std::string read_capability(const Json& value, const std::string& place) {
  std::string text = read_text(value, place);
  const std::size_t dot = text.find_first_not_of(kDigits);
  const bool right = dot != std::string::npos && dot > 0 && text[dot] == '.' &&
                     text.size() == dot + 2 &&
                     text.find_first_not_of(kDigits, dot + 1) == std::string::npos;
  if (!right) {
    refuse_at(place, "String should be a compute capability such as 8.9");
  }
  return text;
}

WeightRanges read_ranges(Object& object, const char* key) {
  WeightRanges ranges;
  read_dictionary(object, key,
                  [&](const std::string& name, const Json& value, const std::string& place) {
                    Object one(value, place);
                    WeightRange range;
                    range.file = read_path(one, "file");
                    range.offset = one.count("offset");
                    range.bytes = one.count("bytes");
                    range.dtype = read_dtype(one);
                    one.done();
                    ranges[name] = range;
                  });
  return ranges;
}

MergePlan read_merge(const Json& value, const std::string& place) {
  Object object(value, place);
  MergePlan merge;
  merge.file = read_file_entry(object);
  const auto sizes = read_list(object, "shape", [](const Json& size, const std::string& where) {
    return read_count(size, where, 1);
  });
  if (sizes.size() != 2) {
    refuse_at(object.place("shape"), "Tuple should have 2 items");
  }
  merge.rows = sizes[0];
  merge.columns = sizes[1];
  merge.max_rank = object.count("max_rank", 1);
  object.done();
  return merge;
}

Swap read_swap(const Json& value, const std::string& place) {
  Object object(value, place);
  Swap swap;
  swap.inputs = read_list(object, "inputs", read_tensor);
  swap.base = read_ranges(object, "base");
  swap.merges = read_list(object, "merges", read_merge);
  object.done();
  return swap;
}

void check_inside(const WeightRanges& ranges, const Manifest& manifest) {
  for (const auto& [name, range] : ranges) {
    const auto found =
        std::find_if(manifest.weights.begin(), manifest.weights.end(),
                     [&path = range.file](const auto& one) { return one.file.file == path; });
    const std::int64_t bytes = found == manifest.weights.end() ? 0 : found->file.bytes;
    if (range.offset > bytes || range.bytes > bytes - range.offset) {
      refuse_at("engine.json", name + " is outside the weight files");
    }
  }
}

}  // namespace

Plan read_plan(const Json& value, const std::string& place) {
  Object object(value, place);
  Plan plan;
  plan.file = read_file_entry(object);
  read_sha256(object, "key");
  plan.library = object.text("library");
  object.need("gpu");
  if (const Json* gpu = object.find("gpu")) {
    plan.gpu = read_text(*gpu, object.place("gpu"));
  }
  plan.compute_capabilities = read_list(object, "compute_capabilities", read_capability);
  plan.hardware_compatibility =
      object.choice("hardware_compatibility", {"none", "ampere+", "samecomputecapability"});
  plan.version_compatible = object.flag("version_compatible");
  plan.refit = object.choice("refit", {"baked", "none", "targets", "all"});
  object.flag("weight_streaming");
  plan.profiles = read_list(object, "profiles", read_text);
  plan.weights = read_ranges(object, "weights");
  if (const Json* swap = object.find("swap")) {
    plan.swap = read_swap(*swap, object.place("swap"));
  }
  if (const Json* layers = object.find("layers")) {
    plan.layers = read_lone_file(*layers, object.place("layers"));
  }
  if (object.has("control")) {
    object.flag("control");
  }
  object.done();
  return plan;
}

void check_plan(const Graph& graph, const Manifest& manifest) {
  if (graph.plan.has_value() == (manifest.backend == "onnxruntime")) {
    refuse_at("engine.json",
              "backend " + manifest.backend + (graph.plan ? " with a plan" : " without a plan"));
  }
  if (!graph.plan) {
    return;
  }
  const Plan& plan = *graph.plan;
  check_inside(plan.weights, manifest);
  if (plan.swap) {
    check_inside(plan.swap->base, manifest);
  }
  if (plan.refit == "baked" && !plan.weights.empty()) {
    refuse_at("engine.json", "a baked plan takes no weights");
  }
  const bool free = plan.refit == "targets" || plan.refit == "all";
  if (plan.swap && (manifest.mode != "merged" || !free)) {
    refuse_at("engine.json",
              "a " + manifest.mode + " engine of refit " + plan.refit + " can't swap in place");
  }
  std::vector<std::string> named = plan.profiles;
  std::vector<std::string> known;
  std::transform(manifest.workloads.begin(), manifest.workloads.end(), std::back_inserter(known),
                 [](const Workload& one) { return one.name; });
  std::sort(named.begin(), named.end());
  std::sort(known.begin(), known.end());
  if (named != known) {
    refuse_at("engine.json", "the plan's profiles aren't the workloads");
  }
}

}  // namespace wanrt::impl
