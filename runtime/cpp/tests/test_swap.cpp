// Adapters: refused before anything changes, padded with zeros, and gone again.
#include <doctest/doctest.h>

#include <cmath>
#include <string>
#include <vector>

#include "tiny.h"

namespace {

using Values = std::vector<float>;

const tiny::Stored kA = {tiny::kLoraA, {1, 3}, {1, 2, 3}};
const tiny::Stored kB = {tiny::kLoraB, {3, 1}, {10, 20, 30}};
constexpr float kSum = 66;

struct Fed {
  explicit Fed(const tiny::Folder& folder) : engine(folder.path()) {
    engine.bind({tiny::tensor("x", {2, 3}, x), tiny::tensor("timestep", {1}, timestep)});
  }

  float first() {
    engine.forward();
    return engine.output().values<float>()[0];
  }

  Values x = Values(6);
  Values timestep = {500};
  wanrt::Engine engine;
};

struct Bad {
  const char* problem;
  std::string bytes;
};

}  // namespace

TEST_CASE("files that aren't adapters of this engine leave the one that is loaded") {
  const std::vector<Bad> cases = {
      {"can't be read: the file ends too early", "short"},
      {"isn't a canonical adapter", tiny::safetensors({kA, kB}, nullptr)},
      {"isn't a canonical adapter", tiny::adapter({kA, kB}, {{"format", "x"}})},
      {"has version 2, this wanrt reads 1", tiny::adapter({kA, kB}, {{"version", "2"}})},
      {"holds z, which isn't an input of the engine", tiny::adapter({kA, kB, {"z", {1}, {1}}})},
      {"holds lora_A of to_q without its other half", tiny::adapter({kA})},
      {"holds to_q.lora_A of shape [3], the engine takes up to [2, 3]",
       tiny::adapter({{tiny::kLoraA, {3}, {1, 2, 3}}, kB})},
      {"holds to_q.lora_A of shape [1, 4], the engine takes up to [2, 3]",
       tiny::adapter({{tiny::kLoraA, {1, 4}, {1, 2, 3, 4}}, kB})},
      {"has rank 3 at to_q.lora_A, the engine takes up to 2",
       tiny::adapter({{tiny::kLoraA, {3, 3}, Values(9)}, kB})},
      {"holds values in to_q.lora_A that aren't finite, or whose products aren't",
       tiny::adapter({{tiny::kLoraA, {1, 3}, {1, std::nanf(""), 3}}, kB})},
      {"holds values in to_q.lora_B that aren't finite, or whose products aren't",
       tiny::adapter({kA, {tiny::kLoraB, {3, 1}, {10, 20, -INFINITY}}})},
      {"holds values in to_q.lora_B that aren't finite, or whose products aren't",
       tiny::adapter({kA, {tiny::kLoraB, {3, 1}, {10, 20, -1.9e19F}}})},
      {"has ranks 1 and 2 at to_q", tiny::adapter({kA, {tiny::kLoraB, {3, 2}, Values(6)}})},
  };
  const tiny::Folder folder;
  Fed fed(folder);
  fed.engine.swap(folder.write("good.safetensors", tiny::adapter({kA, kB})));
  for (const Bad& bad : cases) {
    const std::string path = folder.write("bad.safetensors", bad.bytes);
    CHECK_THROWS_WITH_AS(fed.engine.swap(path), (path + " " + bad.problem).c_str(), wanrt::Error);
    CHECK(fed.first() == kSum);
  }
  CHECK_THROWS_AS(fed.engine.swap(folder.file("none")), wanrt::Error);
  CHECK_THROWS_AS(fed.engine.swap(folder.path()), wanrt::Error);
}

TEST_CASE("an adapter in another dtype") {
  const tiny::Folder folder(
      [](tiny::Json& m) { m["graphs"]["forward"]["inputs"][2]["dtype"] = "bf16"; });
  wanrt::Engine engine(folder.path());
  const std::string path = folder.write("a.safetensors", tiny::adapter({kA, kB}));
  CHECK_THROWS_WITH(engine.swap(path),
                    (path + " holds to_q.lora_A in F32, the engine takes bf16").c_str());
}

TEST_CASE("a fixed engine takes none") {
  const tiny::Folder folder([](tiny::Json& m) {
    m["mode"] = "full";
    auto& inputs = m["graphs"]["forward"]["inputs"];
    inputs.erase(4);
    inputs.erase(3);
    inputs.erase(2);
  });
  wanrt::Engine engine(folder.path());
  CHECK_THROWS_WITH(engine.swap(),
                    (folder.path() + " is a full engine, its adapter is fixed").c_str());
}

TEST_CASE("an adapter input of unknown size") {
  const tiny::Folder folder(
      [](tiny::Json& m) { m["graphs"]["forward"]["inputs"][2]["shape"] = {"r", 3}; });
  CHECK_THROWS_WITH(wanrt::Engine(folder.path()), "adapter input to_q.lora_A has shape [r, 3]");
}

TEST_CASE("a swap, smaller ones after it, and back to the base") {
  const tiny::Folder folder;
  Fed fed(folder);
  CHECK(fed.first() == 0);
  const tiny::Stored wide_a = {tiny::kLoraA, {2, 3}, Values(6, 1)};
  const tiny::Stored wide_b = {tiny::kLoraB, {3, 2}, Values(6, 2)};
  fed.engine.swap(folder.write("2.safetensors", tiny::adapter({wide_a, wide_b})));
  CHECK(fed.first() == 18);
  fed.engine.swap(folder.write("1.safetensors", tiny::adapter({kA, kB})));
  CHECK(fed.first() == kSum);
  fed.engine.swap(folder.write("0.safetensors", tiny::adapter({})));
  CHECK(fed.first() == 0);
  fed.engine.swap(folder.file("1.safetensors"));
  fed.engine.swap();
  CHECK(fed.first() == 0);
}

TEST_CASE("adapters side by side, each at its strength") {
  const tiny::Folder folder;
  Fed fed(folder);
  const std::string one = folder.write("1.safetensors", tiny::adapter({kA, kB}));
  const std::string two = folder.write(
      "2.safetensors",
      tiny::adapter({{tiny::kLoraA, {1, 3}, {4, 5, 6}}, {tiny::kLoraB, {3, 1}, {7, 8, 9}}}));
  fed.engine.swap({{one, 0.5F}, {two, -2.0F}});
  CHECK(fed.first() == 3 - 30 + 60 + 24);  // B isn't scaled by the stub, nor by the runtime
  fed.engine.set_strengths({0, 1});
  CHECK(fed.first() == 15 + 60 + 24);
  CHECK_THROWS_WITH_AS(fed.engine.set_strengths({1}), "1 strength for 2 adapters", wanrt::Error);
  CHECK_THROWS_WITH_AS(fed.engine.set_strengths({1, std::nanf("")}),
                       (two + ": strength nan isn't finite").c_str(), wanrt::Error);
  CHECK_THROWS_WITH_AS(fed.engine.set_strengths({1, 1e30F}),
                       (two + ": strength 1e+30 makes its values overflow").c_str(), wanrt::Error);
  CHECK(fed.first() == 15 + 60 + 24);
  CHECK_THROWS_WITH_AS(fed.engine.swap({{one, 1}, {two, 1}, {one, 1}}),
                       "ranks 1 + 1 + 1 = 3, the engine takes up to 2", wanrt::Error);
  fed.engine.set_strengths({1, 0});
  CHECK(fed.first() == 6 + 60 + 24);
  fed.engine.swap();
  CHECK(fed.first() == 0);
  fed.engine.set_strengths({});
  CHECK_THROWS_WITH_AS(fed.engine.set_strengths({1}), "1 strength for 0 adapters", wanrt::Error);
}

TEST_CASE("lists that a host can't mean") {
  const tiny::Folder folder;
  wanrt_engine* engine = nullptr;
  wanrt_error error;
  REQUIRE(wanrt_open(folder.path().c_str(), nullptr, &engine, &error) == WANRT_OK);
  const wanrt_adapter empty = {"", 1};
  CHECK(wanrt_swap(engine, nullptr, 1, &error) == WANRT_USAGE_ERROR);
  CHECK(std::string(error.message) == "adapters is a null pointer");
  CHECK(wanrt_swap(engine, &empty, 1, &error) == WANRT_USAGE_ERROR);
  CHECK(std::string(error.message) == "adapter is an empty string");
  CHECK(wanrt_swap(engine, &empty, 5000, &error) == WANRT_USAGE_ERROR);
  CHECK(std::string(error.message) == "5000 adapters are given, at most 1024 are taken");
  CHECK(wanrt_set_strengths(engine, nullptr, 1, &error) == WANRT_USAGE_ERROR);
  CHECK(std::string(error.message) == "strengths is a null pointer");
  CHECK(wanrt_close(engine, nullptr) == WANRT_OK);
}
