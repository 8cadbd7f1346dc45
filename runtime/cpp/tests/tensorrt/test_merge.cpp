// Merged engines: an adapter in place, only what it touches, back bit by bit, and failures.
#include <doctest/doctest.h>

#include <string>

#include "plans.h"

namespace {

using plans::Fed;
using plans::Json;
using plans::kBase;
using plans::kOwn;
using plans::Values;

// B A sums to 360 for one module.
constexpr float kDelta = 360;

tiny::Stored a_of(const std::string& module) { return {module + ".lora_A", {1, 3}, {1, 2, 3}}; }
tiny::Stored b_of(const std::string& module) { return {module + ".lora_B", {3, 1}, {10, 20, 30}}; }

struct Merging {
  explicit Merging(const plans::Change& change = [](Json&, Json&) {})
      : folder(plans::merged(change)),
        fed(folder),
        one(folder.write("1.safetensors", tiny::adapter({a_of("to_k"), b_of("to_k")}))),
        both(folder.write("2.safetensors", tiny::adapter({a_of("to_q"), b_of("to_q"), a_of("to_k"),
                                                          b_of("to_k")}))) {}

  // What was refitted by a call.
  template <typename Call>
  int refitted(Call call) {
    const int before = fake::state().refitted;
    call();
    return fake::state().refitted - before;
  }

  plans::Reset reset;
  tiny::Folder folder;
  Fed fed;
  std::string one, both;
};

std::string refusal(wanrt::Engine& engine, const std::string& adapter) {
  try {
    engine.swap(adapter);
  } catch (const wanrt::Error& error) {
    return error.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("adapters come and go in place") {
  Merging m;
  CHECK(m.fed.engine.manifest().info().adapter_inputs == 4);
  CHECK(m.fed.run() == kOwn);
  CHECK(m.refitted([&] { m.fed.engine.swap(m.both); }) == 2);
  CHECK(fake::state().merges == 2);
  CHECK(m.fed.run() == kBase + 2 * kDelta);
  m.fed.engine.swap(m.one);
  CHECK(fake::state().merges == 3);
  CHECK(m.fed.run() == kBase + kDelta);
  // the base: an adapter of nothing
  m.fed.engine.swap(m.folder.write("0.safetensors", tiny::adapter({})));
  CHECK(m.fed.run() == kBase);
  CHECK(fake::state().merges == 3);
  m.fed.engine.swap({{m.one, 2}, {m.one, -1}});
  CHECK(m.fed.run() == kBase + kDelta);
  CHECK(m.refitted([&] { m.fed.engine.set_strengths({2, 0}); }) == 1);
  CHECK(m.fed.run() == kBase + 2 * kDelta);
  CHECK(refusal(m.fed.engine, m.folder.file("none")) != "nothing");
  CHECK(m.fed.run() == kBase + 2 * kDelta);
  m.fed.engine.swap();
  CHECK(m.fed.run() == kOwn);
  CHECK(m.refitted([&] { m.fed.engine.swap(); }) == 0);
  CHECK(m.fed.run() == kOwn);
}

TEST_CASE("only what changes is exchanged") {
  Merging m;
  m.fed.engine.swap(m.folder.write("0.safetensors", tiny::adapter({})));
  // to_k is alone in the adapter, and nothing is fused to it
  CHECK(m.refitted([&] { m.fed.engine.swap(m.one); }) == 1);
  CHECK(m.fed.run() == kBase + kDelta);
  // to_q takes to_k along, with its adapter
  CHECK(m.refitted([&] { m.fed.engine.swap(m.both); }) == 2);
  CHECK(m.fed.run() == kBase + 2 * kDelta);
}

TEST_CASE("a graph from before a swap isn't run again") {
  Merging m;
  CHECK(m.fed.run() == kOwn);
  CHECK(m.fed.run() == kOwn);
  CHECK(fake::state().captures == 1);
  m.fed.engine.swap(m.one);
  CHECK(m.fed.run() == kBase + kDelta);
  CHECK(m.fed.run() == kBase + kDelta);
  CHECK(m.fed.run() == kBase + kDelta);
  CHECK(fake::state().captures == 2);
}

TEST_CASE("files that aren't adapters of this engine") {
  Merging m;
  m.fed.engine.swap(m.one);
  const std::string bad = m.folder.write("bad.safetensors", tiny::adapter({a_of("to_v")}));
  CHECK(refusal(m.fed.engine, bad) ==
        bad + " holds to_v.lora_A, which isn't an input of the engine");
  const std::string wide = m.folder.write(
      "wide.safetensors",
      tiny::adapter({{"to_k.lora_A", {3, 3}, Values(9)}, {"to_k.lora_B", {3, 3}, Values(9)}}));
  CHECK(refusal(m.fed.engine, wide) ==
        wide + " has rank 3 at to_k.lora_A, the engine takes up to 2");
  CHECK(m.fed.run() == kBase + kDelta);
}

TEST_CASE("a failure anywhere leaves the previous adapter") {
  Merging m;
  m.fed.engine.swap(m.one);
  for (const char* function : {"cudaMalloc", "cudaMemcpyAsync", "enqueueV3", "setNamedWeights",
                               "refitCudaEngineAsync", "cudaStreamSynchronize"}) {
    CAPTURE(function);
    fake::state().failing = function;
    CHECK(refusal(m.fed.engine, m.both) != "nothing");
    CHECK(fake::state().failing.empty());
    CHECK(m.fed.run() == kBase + kDelta);
    CHECK(m.fed.run() == kBase + kDelta);
  }
  fake::state().failing = "refitCudaEngineAsync";
  CHECK_THROWS_AS(m.fed.engine.swap(), wanrt::Error);
  CHECK(m.fed.run() == kBase + kDelta);
  m.fed.engine.swap(m.both);
  CHECK(m.fed.run() == kBase + 2 * kDelta);
  m.fed.engine.swap();
  CHECK(m.fed.run() == kOwn);
}

TEST_CASE("an engine that is left with a part of an adapter runs no more") {
  Merging m;
  fake::state().failing = "refitCudaEngineAsync";
  fake::state().times = 2;
  CHECK(refusal(m.fed.engine, m.both) ==
        m.folder.path() + ": TensorRT can't exchange weights: the stand-in can't refit");
  const std::string broken =
      m.folder.path() + " has a part of an adapter: a swap failed and couldn't be undone";
  CHECK_THROWS_WITH(m.fed.engine.forward(), broken.c_str());
  CHECK(refusal(m.fed.engine, m.both) == broken);
}

TEST_CASE("a swap that can't be") {
  const auto opened = [](const plans::Change& change) {
    const plans::Reset reset;
    return plans::refusal(plans::merged(change));
  };
  const auto ends = [](const std::string& text, const std::string& end) {
    INFO(text);
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
  };
  const auto swap = [](Json& m) -> Json& { return m["graphs"]["forward"]["plan"]["swap"]; };
  CHECK(ends(opened([&](Json&, Json& m) { swap(m)["merges"][0]["shape"] = {3, 4}; }),
             "engine.json: swap: no plan merges to_k.weight"));
  CHECK(ends(opened([&](Json&, Json& m) { swap(m)["inputs"][0]["dtype"] = "bf16"; }),
             "engine.json: swap: no plan merges to_q.weight"));
  CHECK(ends(opened([&](Json&, Json& m) { swap(m)["base"].erase("to_q.weight"); }),
             "swap: to_q.weight lacks lora_A, lora_B or its base"));
  CHECK(ends(opened([&](Json&, Json& m) { swap(m)["inputs"].erase(3); }),
             "swap: to_k.weight lacks lora_A, lora_B or its base"));
  CHECK(ends(opened([&](Json&, Json& m) { swap(m)["inputs"][0]["role"] = "data"; }),
             "adapter input to_q.lora_A has shape [2, 3]"));
  CHECK(ends(opened([&](Json&, Json& m) { swap(m)["base"]["x"] = swap(m)["base"]["to_q.weight"]; }),
             "swap: x isn't a weight of the plan"));
}
