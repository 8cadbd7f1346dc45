// Opening a plan: what is refused and in what words, and where its weights come from.
#include <doctest/doctest.h>

#include <string>

#include "plans.h"

namespace {

using plans::Json;
using plans::refusal;

Json& plan_of(Json& manifest) { return manifest["graphs"]["forward"]["plan"]; }

tiny::Folder with(const char* key, const Json& value) {
  return plans::separate([&](Json&, Json& manifest) { plan_of(manifest)[key] = value; });
}

bool contains(const std::string& text, const std::string& part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a plan runs on a GPU alone") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::separate();
  CHECK(refusal(folder, wanrt_options()) ==
        folder.path() + " is a TensorRT engine and runs on a GPU");
  wanrt_options options = plans::on_gpu();
  options.mapped = 1;
  CHECK(refusal(folder, options) == "mapped weights are a CPU engine's");
  options = plans::on_gpu();
  options.device_id = 1;
  CHECK(refusal(folder, options) == "CUDA can't use the device: invalid device ordinal");
  fake::state().devices = 0;
  CHECK(refusal(folder) ==
        "CUDA can't tell the current device: no CUDA-capable device is detected");
  CHECK(contains(wanrt_backends(), WANRT_BACKEND));
}

TEST_CASE("another version of the library") {
  const plans::Reset reset;
  const tiny::Folder older = with("library", "9.3.0.1");
  CHECK(contains(refusal(older), "engine.plan was built with version 9.3.0.1, the TensorRT"));
  const auto compatible = [](const char* version) {
    return plans::separate([&](Json&, Json& manifest) {
      plan_of(manifest)["version_compatible"] = true;
      plan_of(manifest)["library"] = version;
    });
  };
  CHECK(refusal(compatible("1.3.0.1")) == "nothing");
  CHECK(fake::state().host_code_allowed);
  CHECK(contains(refusal(compatible("99.0.0.0")), "built with version 99.0.0.0"));
  CHECK(refusal(plans::separate()) == "nothing");
  CHECK(!fake::state().host_code_allowed);
  fake::state().version[0] = 99;
  CHECK(contains(refusal(plans::separate()), "library is version 99.0.0.0, this libwanrt was"));
}

TEST_CASE("another GPU") {
  const plans::Reset reset;
  const bool rtx = std::string(WANRT_BACKEND) == "tensorrt-rtx";
  CHECK(contains(refusal(with("gpu", "NVIDIA H200")),
                 rtx ? "nothing" : "is for NVIDIA H200, this GPU is Fake GPU of compute"));
  const tiny::Folder unnamed = plans::separate([](Json&, Json& manifest) {
    plan_of(manifest)["gpu"] = nullptr;
    plan_of(manifest)["compute_capabilities"] = {"8.9", "12.0"};
  });
  CHECK(contains(refusal(unnamed),
                 "is for compute capability 8.9 12.0, this GPU is Fake GPU of "
                 "compute capability 9.0"));
  const tiny::Folder same = plans::separate([](Json&, Json& manifest) {
    plan_of(manifest)["gpu"] = "another one";
    plan_of(manifest)["hardware_compatibility"] = "samecomputecapability";
  });
  CHECK(refusal(same) == "nothing");
  const tiny::Folder ampere = plans::separate([](Json&, Json& manifest) {
    plan_of(manifest)["compute_capabilities"] = {"8.0"};
    plan_of(manifest)["hardware_compatibility"] = "ampere+";
  });
  CHECK(refusal(ampere) == "nothing");
  fake::state().major = 7;
  CHECK(contains(refusal(ampere), "is for compute capability 8.0 or later"));
}

TEST_CASE("what TensorRT can't load") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::separate();
  const std::size_t bytes = std::filesystem::file_size(folder.file("engine.plan"));
  folder.write("engine.plan", std::string(bytes, '\xff'));
  CHECK(refusal(folder) == folder.path() +
                               ": TensorRT can't load engine.plan: the stand-in can't "
                               "read this plan");
  fake::state().failing = "createInferRuntime";
  CHECK(contains(refusal(plans::separate()), ": TensorRT can't start"));
  fake::state().failing = "createExecutionContext";
  CHECK(contains(refusal(plans::separate()), ": TensorRT can't make a context"));
}

TEST_CASE("a plan of other inputs and outputs than engine.json's") {
  const plans::Reset reset;
  CHECK(contains(refusal(plans::separate([](Json& plan, Json&) { plan["inputs"].erase("x"); })),
                 "TensorRT has a plan without x"));
  CHECK(contains(
      refusal(plans::separate([](Json& plan, Json&) { plan["outputs"]["z"] = {{"like", "x"}}; })),
      "has a plan of 4 inputs and outputs, engine.json names 3"));
  CHECK(contains(
      refusal(plans::separate([](Json& plan, Json&) { plan["inputs"]["x"]["dtype"] = "bf16"; })),
      "has a plan whose x isn't fp32"));
}

TEST_CASE("weights come from the folder, by name") {
  const plans::Reset reset;
  {
    plans::Fed fed(plans::separate());
    CHECK(fed.run() == plans::kOwn);
    CHECK(fake::state().refits == 1);
    CHECK(fake::state().refitted == 3);
  }
  CHECK(fake::state().device_bytes == 0);
  CHECK(contains(refusal(plans::separate(
                     [](Json&, Json& manifest) { plan_of(manifest)["weights"].erase("bias"); })),
                 "TensorRT asks for the weights bias, which engine.json doesn't name"));
  CHECK(contains(refusal(plans::separate([](Json&, Json& manifest) {
                   plan_of(manifest)["weights"]["bias"]["bytes"] = 8;
                 })),
                 "wants 3 values of bias in another dtype or number than the 2 in fp32"));
  CHECK(contains(refusal(plans::separate([](Json&, Json& manifest) {
                   plan_of(manifest)["weights"]["bias"]["dtype"] = "bf16";
                   plan_of(manifest)["weights"]["bias"]["bytes"] = 6;
                 })),
                 "than the 3 in bf16"));
  fake::state().failing = "setNamedWeights";
  CHECK(contains(refusal(plans::separate()), "refuses the weights bias: bad weights"));
  fake::state().failing = "refitCudaEngineAsync";
  CHECK(contains(refusal(plans::separate()), "can't exchange weights: the stand-in can't refit"));
  CHECK(fake::state().device_bytes == 0);
}

TEST_CASE("a plan that has its weights needs none") {
  const plans::Reset reset;
  plans::Fed fed(plans::separate([](Json& plan, Json& manifest) {
    plan["weights"] = {{"w", {{"count", 2}, {"values", {20, 30}}}}};
    plan_of(manifest)["refit"] = "baked";
    plan_of(manifest)["weights"] = Json::object();
  }));
  CHECK(fed.run() == 50);
  plans::Fed whole(plans::separate(
      [](Json& plan, Json&) { plan["weights"] = {{"w", {{"count", 2}, {"values", {20, 30}}}}}; }));
  CHECK(whole.run() == 50);
  CHECK(fake::state().refits == 0);
}

TEST_CASE("too little device memory") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::swappable();
  fake::state().failing = "cudaMalloc";
  try {
    const wanrt::Engine engine(folder.path(), plans::on_gpu());
    FAIL("opened");
  } catch (const wanrt::Error& error) {
    CHECK(error.status() == WANRT_OUT_OF_MEMORY);
  }
  CHECK(fake::state().device_bytes == 0);
}
