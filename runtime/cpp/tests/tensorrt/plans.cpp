#include "plans.h"

#include <algorithm>
#include <cstdint>

extern "C" std::int32_t getInferLibMajorVersion() noexcept;
extern "C" std::int32_t getInferLibMinorVersion() noexcept;
extern "C" std::int32_t getInferLibPatchVersion() noexcept;
extern "C" std::int32_t getInferLibBuildVersion() noexcept;

namespace plans {

namespace {

const std::string kHash(64, '0');

// The weight file: what the engine has, and what the base has.
std::string weight_file() {
  return tiny::safetensors({{"to_q.weight", {3, 3}, Values(9, 1)},
                            {"to_k.weight", {3, 3}, Values(9, 2)},
                            {"bias", {3}, Values(3, 1)},
                            {"base.to_q.weight", {3, 3}, Values(9, 10)},
                            {"base.to_k.weight", {3, 3}, Values(9, 0)}},
                           nullptr);
}

Json range(const std::string& name) {
  const std::string file = weight_file();
  std::size_t length = 0;
  for (std::size_t i = 8; i-- > 0;) {
    length = length << 8U | static_cast<unsigned char>(file[i]);
  }
  const Json entry = Json::parse(file.substr(8, length))[name];
  const std::size_t begin = entry["data_offsets"][0];
  const std::size_t end = entry["data_offsets"][1];
  return {{"file", "weights/w.safetensors"},
          {"offset", 8 + length + begin},
          {"bytes", end - begin},
          {"dtype", "fp32"}};
}

std::string library() {
  return std::to_string(getInferLibMajorVersion()) + "." +
         std::to_string(getInferLibMinorVersion()) + "." +
         std::to_string(getInferLibPatchVersion()) + "." +
         std::to_string(getInferLibBuildVersion());
}

// The plan of a graph as engine.json describes it; weights lie outside.
Json plan_file() {
  const auto input = [](const Json& shapes) { return Json{{"shapes", shapes}}; };
  return {
      {"inputs", {{"x", input({{2, 3}})}, {"timestep", input(Json::array({Json::array({1})}))}}},
      {"outputs", {{"y", {{"like", "x"}}}}},
      {"weights",
       {{"to_q.weight", {{"count", 9}}},
        {"to_k.weight", {{"count", 9}, {"with", Json::array({"to_q.weight"})}}},
        {"bias", {{"count", 3}}}}}};
}

Json describe_plan() {
  return {{"file", "engine.plan"},
          {"sha256", kHash},
          {"key", kHash},
          {"library", library()},
          {"gpu", "Fake GPU"},
          {"compute_capabilities", Json::array({"9.0"})},
          {"hardware_compatibility", "none"},
          {"version_compatible", false},
          {"refit", "none"},
          {"weight_streaming", false},
          {"profiles", Json::array({"64x32x1"})},
          {"weights",
           {{"to_q.weight", range("to_q.weight")},
            {"to_k.weight", range("to_k.weight")},
            {"bias", range("bias")}}}};
}

tiny::Folder make(const Change& change) {
  Json plan = plan_file();
  tiny::Folder folder([&](Json& manifest) {
    manifest["backend"] = WANRT_BACKEND;
    manifest["weights"][0]["bytes"] = weight_file().size();
    manifest["weights"][0]["storage"] = "copy";
    manifest["graphs"]["forward"]["plan"] = describe_plan();
    change(plan, manifest);
    manifest["graphs"]["forward"]["plan"]["bytes"] = plan.dump().size();
  });
  folder.write("weights/w.safetensors", weight_file());
  folder.write("engine.plan", plan.dump());
  return folder;
}

void fix_adapter(Json& manifest, const char* mode) {
  manifest["mode"] = mode;
  manifest["rank"] = 2;
  manifest["max_rank"] = nullptr;
  Json& inputs = manifest["graphs"]["forward"]["inputs"];
  inputs.erase(4);
  inputs.erase(3);
  inputs.erase(2);
}

Json lora(const std::string& module, const char* role, const Json& shape) {
  return {{"name", module + "." + role},
          {"dtype", "fp32"},
          {"shape", shape},
          {"role", role},
          {"module", module}};
}

std::string merge_plan() {
  const auto input = [](const Json& shape) { return Json{{"shapes", Json::array({shape})}}; };
  const Json plan = {
      {"kind", "merge"},
      {"inputs", {{"weight", input({3, 3})}, {"lora_A", input({2, 3})}, {"lora_B", input({3, 2})}}},
      {"outputs", {{"merged", {{"like", "weight"}}}}},
      {"weights", Json::object()}};
  return plan.dump();
}

}  // namespace

tiny::Folder separate(const Change& change) {
  return make([&](Json& plan, Json& manifest) {
    fix_adapter(manifest, "separate");
    change(plan, manifest);
  });
}

tiny::Folder swappable(const Change& change) {
  return make([&](Json& plan, Json& manifest) {
    plan["inputs"][tiny::kLoraA] = {{"shapes", Json::array({{2, 3}})}};
    plan["inputs"][tiny::kLoraB] = {{"shapes", Json::array({{3, 2}})}};
    plan["inputs"][tiny::kStrengths] = {{"shapes", Json::array({Json::array({2})})}};
    change(plan, manifest);
  });
}

tiny::Folder merged(const Change& change) {
  tiny::Folder folder = make([&](Json& plan, Json& manifest) {
    fix_adapter(manifest, "merged");
    Json& entry = manifest["graphs"]["forward"]["plan"];
    entry["refit"] = "all";
    entry["swap"] = {
        {"inputs",
         {lora("to_q", "lora_A", {2, 3}), lora("to_q", "lora_B", {3, 2}),
          lora("to_k", "lora_A", {2, 3}), lora("to_k", "lora_B", {3, 2})}},
        {"base",
         {{"to_q.weight", range("base.to_q.weight")}, {"to_k.weight", range("base.to_k.weight")}}},
        {"merges",
         {{{"file", "merge.plan"},
           {"bytes", merge_plan().size()},
           {"sha256", kHash},
           {"shape", {3, 3}},
           {"max_rank", 2}}}}};
    change(plan, manifest);
  });
  folder.write("merge.plan", merge_plan());
  return folder;
}

wanrt_options on_gpu() {
  wanrt_options options = {};
  options.device = WANRT_CUDA;
  return options;
}

std::string refusal(const tiny::Folder& folder, const wanrt_options& options) {
  try {
    const wanrt::Engine engine(folder.path(), options);
  } catch (const wanrt::Error& error) {
    return error.what();
  }
  return "nothing";
}

Fed::Fed(const tiny::Folder& folder, const wanrt_options& options)
    : engine(folder.path(), options) {
  bind();
}

float Fed::run() {
  engine.forward();
  return engine.output().values<float>()[0];
}

}  // namespace plans
