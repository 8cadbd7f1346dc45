// Binding and running: what is refused, whose memory outputs are, and what a failure leaves.
#include <doctest/doctest.h>

#include <cstdint>
#include <stdexcept>
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
  CHECK(refusal(fed.engine, {fed.second, fed.second}) == "timestep is given twice");
  Values more(6);
  CHECK(refusal(fed.engine, {fed.first, tiny::tensor("z", {6}, more)}) == "there is no input z");
  CHECK(refusal(fed.engine, {fed.first, tiny::tensor(tiny::kLoraA, {2, 3}, more)}) ==
        "input to_q.lora_A is the adapter's");
  CHECK(refusal(fed.engine, {fed.first, fed.second, tiny::tensor("z", {6}, more)}) ==
        "3 inputs are given, the engine has 2");
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
  CHECK(refusal(fed.engine, {bad, fed.second}) == "x has a size of -1 in its shape");
  bad = fed.first;
  bad.shape[0] = bad.shape[1] = INT64_MAX;
  CHECK(refusal(fed.engine, {bad, fed.second}) ==
        "input x has 24 bytes, its shape [9223372036854775807, 9223372036854775807] takes more "
        "than there can be");
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

TEST_CASE("values that no tensor has") {
  const tiny::Folder folder;
  Fed fed(folder);
  const auto altered = [&](auto change) {
    wanrt::Tensor bad = fed.first;
    change(bad);
    return refusal(fed.engine, {bad, fed.second});
  };
  CHECK(altered([](auto& t) { t.memory = static_cast<wanrt_memory>(999); }) ==
        "x is in memory 999, neither WANRT_HOST nor WANRT_DEVICE");
  CHECK(altered([](auto& t) { t.memory = static_cast<wanrt_memory>(-1); }) ==
        "x is in memory -1, neither WANRT_HOST nor WANRT_DEVICE");
  CHECK(altered([](auto& t) { t.memory = WANRT_DEVICE; }) ==
        "input x is in device memory, the engine runs on a CPU");
  CHECK(altered([](auto& t) { t.dtype = static_cast<wanrt_dtype>(999); }) ==
        "input x is of another dtype, the engine takes fp32");
  CHECK(altered([](auto& t) { t.rank = SIZE_MAX; }) ==
        "x has rank 18446744073709551615, the most is 8");
  CHECK(altered([](auto& t) { t.data = static_cast<char*>(t.data) + 1; }) ==
        "x's memory doesn't begin at a multiple of 4, the bytes of one value");
  CHECK(altered([](auto& t) { t.data = reinterpret_cast<void*>(UINTPTR_MAX - 7); }) ==
        "x's memory ends beyond the last address");
  CHECK(altered([](auto& t) { t.bytes = SIZE_MAX; }) == "x's memory ends beyond the last address");
}

TEST_CASE("counts that no array has aren't followed through memory") {
  const tiny::Folder folder;
  Fed fed(folder);
  wanrt_engine* engine = nullptr;
  wanrt_error error = {};
  REQUIRE(wanrt_open(folder.path().c_str(), nullptr, &engine, &error) == WANRT_OK);
  const std::vector<wanrt_tensor> inputs = {fed.first, fed.second};
  for (const std::size_t count : {SIZE_MAX, SIZE_MAX / sizeof(wanrt_tensor), std::size_t{3}}) {
    CHECK(wanrt_bind(engine, inputs.data(), count, nullptr, 0, &error) == WANRT_USAGE_ERROR);
    CHECK(std::string(error.message) ==
          std::to_string(count) + " inputs are given, the engine has 2");
    CHECK(std::string(error.hint) == "inputs: x, timestep");
    CHECK(wanrt_bind(engine, inputs.data(), 2, inputs.data(), count, &error) == WANRT_USAGE_ERROR);
    CHECK(std::string(error.message) ==
          std::to_string(count) + " outputs are given, the engine has 1");
  }
  CHECK(wanrt_bind(engine, nullptr, 2, nullptr, 0, &error) == WANRT_USAGE_ERROR);
  CHECK(std::string(error.message) == "inputs is a null pointer");
  CHECK(wanrt_bind(engine, inputs.data(), 2, nullptr, 1, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_bind(engine, nullptr, 0, nullptr, 0, &error) == WANRT_ENGINE_ERROR);
  CHECK(wanrt_output(engine, SIZE_MAX, nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_close(engine, &error) == WANRT_OK);
}

TEST_CASE("outputs that share memory") {
  const tiny::Folder folder([](tiny::Json& m) {
    auto& outputs = m["graphs"]["forward"]["outputs"];
    outputs.push_back(outputs[0]);
    outputs[1]["name"] = "z";
  });
  Fed fed(folder);
  Values memory(13);
  const auto at = [&](const char* name, std::size_t begin) {
    wanrt::Tensor tensor = tiny::tensor(name, {2, 3}, memory);
    tensor.data = memory.data() + begin;
    tensor.bytes = 24;
    return tensor;
  };
  const std::vector<wanrt::Tensor> inputs = {at("x", 0), fed.second};
  CHECK(refusal(fed.engine, inputs, {at("y", 0)}) == "input x shares memory with output y");
  CHECK(refusal(fed.engine, inputs, {at("y", 5)}) == "input x shares memory with output y");
  CHECK(refusal(fed.engine, inputs, {at("y", 6), at("z", 7)}) ==
        "output z shares memory with output y");
  CHECK(refusal(fed.engine, inputs, {at("y", 7)}) == "nothing");
  const wanrt::Tensor own = fed.engine.output(1);
  wanrt::Tensor back = fed.first;
  back.data = own.data;
  CHECK(refusal(fed.engine, {back, fed.second}) ==
        "input x shares memory with the engine's own output z");
  CHECK(refusal(fed.engine, inputs, {own}) ==
        "output z shares memory with the engine's own output z");
}

TEST_CASE("inputs may share memory") {
  const tiny::Folder folder;
  Fed fed(folder);
  wanrt::Tensor timestep = fed.second;
  timestep.data = fed.x.data();
  CHECK(refusal(fed.engine, {fed.first, timestep}) == "nothing");
}

TEST_CASE("values of another size, or none, aren't told") {
  const tiny::Folder folder;
  Fed fed(folder);
  CHECK_THROWS_WITH_AS(static_cast<void>(fed.first.values<std::uint16_t>()),
                       "x's values have 4 bytes, not 2", std::logic_error);
  CHECK_THROWS_WITH_AS(static_cast<void>(fed.engine.manifest().inputs()[0].values<float>()),
                       "x has no values", std::logic_error);
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
        "input timestep has shape [1], the engine takes [rows=2]");
  Values one = {1, 2, 3};
  fed.engine.bind({tiny::tensor("x", {1, 3}, one), fed.second});
  fed.engine.forward();
  CHECK(values(fed.engine.output()) == one);
  CHECK(fed.engine.output().shape[0] == 1);

  wanrt_options options = {};
  options.workload = "64x32x1";
  Fed pinned(folder, options);
  CHECK(refusal(pinned.engine, {tiny::tensor("x", {1, 3}, one), pinned.second}) ==
        "input x has shape [1, 3], the workload's is [2, 3]");
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
