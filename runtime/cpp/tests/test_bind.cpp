// Binding and running: what is refused, whose memory outputs are, and what a failure leaves.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "stub.h"
#include "tiny.h"

namespace {

using Values = std::vector<float>;

std::string refusal(wanrt::Engine& engine, const std::vector<wanrt::Tensor>& inputs,
                    const std::vector<wanrt::Tensor>& outputs = {}) {
  try {
    engine.bind(inputs, outputs);
  } catch (const wanrt::Error& error) {
    return error.what();
  }
  return "nothing";
}

Values values(const wanrt::Tensor& tensor) {
  const auto all = tensor.values<float>();
  return {all.begin(), all.end()};
}

struct Fed {
  explicit Fed(const tiny::Folder& from, const wanrt_options& options = wanrt_options())
      : engine(from.path(), options) {}

  Values x = {1, 2, 3, 4, 5, 6};
  Values timestep = {500};
  wanrt::Tensor first = tiny::tensor("x", {2, 3}, x);
  wanrt::Tensor second = tiny::tensor("timestep", {1}, timestep);
  wanrt::Engine engine;
};

}  // namespace

TEST_CASE("inputs that don't fit") {
  const tiny::Folder folder;
  Fed fed(folder);
  CHECK_THROWS_WITH(fed.engine.forward(), "no inputs are bound");
  CHECK(refusal(fed.engine, {fed.first}) == "input timestep is missing");
  CHECK(refusal(fed.engine, {fed.first, fed.second, fed.second}) == "timestep is given twice");
  Values more(6);
  CHECK(refusal(fed.engine, {fed.first, fed.second, tiny::tensor("z", {6}, more)}) ==
        "there is no input z");
  CHECK(refusal(fed.engine, {fed.first, fed.second, tiny::tensor(tiny::kLoraA, {2, 3}, more)}) ==
        "input to_q.lora_A is the adapter's");
  CHECK(refusal(fed.engine, {tiny::tensor("x", {3, 2}, more), fed.second}) ==
        "input x has shape [3, 2], the engine takes [2, 3]");
  CHECK(refusal(fed.engine, {tiny::tensor("x", {6}, more), fed.second}) ==
        "input x has shape [6], the engine takes [2, 3]");
  wanrt::Tensor bad = fed.first;
  bad.dtype = WANRT_FP16;
  CHECK(refusal(fed.engine, {bad, fed.second}) == "input x is fp16, the engine takes fp32");
  bad = fed.first;
  bad.bytes = 20;
  CHECK(refusal(fed.engine, {bad, fed.second}) ==
        "input x has 20 bytes, its shape [2, 3] takes 24");
  bad = fed.first;
  bad.data = nullptr;
  CHECK(refusal(fed.engine, {bad, fed.second}) == "input x has no memory");
  bad = fed.first;
  bad.shape[0] = -1;
  CHECK(refusal(fed.engine, {bad, fed.second}) ==
        "input x has 24 bytes, its shape [-1, 3] takes more than there can be");
  bad = fed.first;
  bad.rank = 9;
  CHECK(refusal(fed.engine, {bad, fed.second}) == "x has rank 9, the most is 8");
  bad.name = nullptr;
  CHECK(refusal(fed.engine, {bad, fed.second}) == "a tensor's name is a null pointer");
}

TEST_CASE("outputs that don't fit") {
  const tiny::Folder folder;
  Fed fed(folder);
  Values y(6);
  CHECK(refusal(fed.engine, {fed.first, fed.second}, {tiny::tensor("z", {2, 3}, y)}) ==
        "there is no output z");
  CHECK(refusal(fed.engine, {fed.first, fed.second}, {tiny::tensor("y", {3, 2}, y)}) ==
        "output y has shape [3, 2], the engine writes [2, 3]");
}

TEST_CASE("a refused bind leaves what was bound") {
  const tiny::Folder folder;
  Fed fed(folder);
  fed.engine.bind({fed.first, fed.second});
  CHECK(refusal(fed.engine, {fed.first}) == "input timestep is missing");
  fed.engine.forward();
  CHECK(values(fed.engine.output()) == fed.x);
}

TEST_CASE("a backend that fails to bind leaves nothing bound") {
  const tiny::Folder folder([](tiny::Json& m) { m["name"] = stub::kFailsToBind; });
  Fed fed(folder);
  CHECK(refusal(fed.engine, {fed.first, fed.second}) == "the stub can't bind");
  CHECK_THROWS_WITH(fed.engine.forward(), "no inputs are bound");
}

TEST_CASE("a backend that fails to run") {
  const tiny::Folder folder([](tiny::Json& m) { m["name"] = stub::kFailsToRun; });
  Fed fed(folder);
  fed.engine.bind({fed.first, fed.second});
  CHECK_THROWS_WITH_AS(fed.engine.forward(), "the stub can't run", wanrt::Error);
  CHECK_THROWS_WITH_AS(fed.engine.time_forward(), "the stub can't run", wanrt::Error);
}

TEST_CASE("inputs are read and outputs written in place") {
  const tiny::Folder folder;
  Fed fed(folder);
  Values y(6);
  fed.engine.bind({fed.second, fed.first}, {tiny::tensor("y", {2, 3}, y)});
  fed.engine.forward();
  CHECK(y == Values{1, 2, 3, 4, 5, 6});
  fed.x[0] = 7;
  CHECK(fed.engine.time_forward() >= 0);
  CHECK(y == Values{7, 2, 3, 4, 5, 6});
  CHECK(fed.engine.output().data == y.data());
  CHECK_THROWS_AS(static_cast<void>(fed.engine.output(1)), wanrt::Error);
}

TEST_CASE("the engine's own outputs stay where they are while the shape does") {
  const tiny::Folder folder;
  Fed fed(folder);
  fed.engine.bind({fed.first, fed.second});
  const void* before = fed.engine.output().data;
  fed.engine.bind({fed.first, fed.second});
  fed.engine.forward();
  CHECK(fed.engine.output().data == before);
  CHECK(values(fed.engine.output()) == fed.x);
  Values y(6);
  fed.engine.bind({fed.first, fed.second}, {tiny::tensor("y", {2, 3}, y)});
  fed.engine.bind({fed.first, fed.second});
  fed.engine.forward();
  CHECK(fed.engine.output().data != y.data());
  CHECK(values(fed.engine.output()) == fed.x);
  CHECK(y == Values(6));
}

TEST_CASE("sizes that the caller chooses") {
  const tiny::Folder folder([](tiny::Json& m) {
    auto& graph = m["graphs"]["forward"];
    graph["inputs"][0]["shape"] = {"rows", 3};
    graph["inputs"][1]["shape"] = tiny::Json::array({"rows"});
    graph["outputs"][0]["shape"] = {"rows", 3};
    m["workloads"]["64x32x1"]["shapes"]["timestep"] = tiny::Json::array({2});
  });
  Fed fed(folder);
  CHECK(refusal(fed.engine, {fed.first, fed.second}) ==
        "input x has shape [2, 3], the engine takes [rows=1, 3]");
  Values one = {1, 2, 3};
  fed.engine.bind({tiny::tensor("x", {1, 3}, one), fed.second});
  fed.engine.forward();
  CHECK(values(fed.engine.output()) == one);
  CHECK(fed.engine.output().shape[0] == 1);

  wanrt_options options = {};
  options.workload = "64x32x1";
  Fed pinned(folder, options);
  CHECK(refusal(pinned.engine, {tiny::tensor("x", {1, 3}, one), pinned.second}) ==
        "input timestep has shape [1], the workload's is [2]");
}

TEST_CASE("an output of another dtype than the manifest's") {
  const tiny::Folder folder([](tiny::Json& m) {
    auto& output = m["graphs"]["forward"]["outputs"][0];
    output["shape"] = tiny::Json::array({"found"});
    output["dtype"] = "bf16";
  });
  Fed fed(folder);
  fed.engine.bind({fed.first, fed.second});
  fed.engine.forward();
  CHECK_THROWS_WITH(static_cast<void>(fed.engine.output()),
                    "output y is fp32, engine.json says bf16");
}

TEST_CASE("outputs whose size only a forward tells") {
  const tiny::Folder folder([](tiny::Json& m) {
    m["graphs"]["forward"]["outputs"][0]["shape"] = tiny::Json::array({"found"});
  });
  Fed fed(folder);
  Values y(6);
  CHECK(refusal(fed.engine, {fed.first, fed.second}, {tiny::tensor("y", {6}, y)}) ==
        "output y has shape [found], which the inputs don't tell");
  fed.engine.bind({fed.first, fed.second});
  CHECK_THROWS_AS(static_cast<void>(fed.engine.output()), wanrt::Error);
  fed.engine.forward();
  CHECK(fed.engine.output().shape[0] == 6);
  CHECK(values(fed.engine.output()) == fed.x);
}
