// Contexts of split engines: prepared once, bound many times, refused once adapters have changed.
#include <doctest/doctest.h>

#include <optional>
#include <string>
#include <vector>

#include "stub.h"
#include "tiny.h"

namespace {

using Values = std::vector<float>;

constexpr const char* kStale =
    "the context is stale: adapters or strengths of its layers have changed since";

// Two graphs: k = prompt + what adapters of to_k give; y = x + the sum of k.
void split(tiny::Json& m) {
  tiny::Json forward = m["graphs"]["forward"];
  tiny::Json inputs = forward["inputs"];
  tiny::Json context = forward;
  context["inputs"] = {{{"name", "prompt"}, {"dtype", "fp32"}, {"shape", {2, 3}}}};
  for (std::size_t i = 2; i < 5; ++i) {
    context["inputs"].push_back(inputs[i]);
  }
  context["outputs"] = {{{"name", "k"}, {"dtype", "fp32"}, {"shape", {2, 3}}}};
  context["file"] = "context.onnx";
  tiny::Json k = context["outputs"][0];
  k["role"] = "context";
  forward["inputs"] = {inputs[0], inputs[1], k};
  m["graphs"] = {{"context", context}, {"denoise", forward}};
  auto& workload = m["workloads"]["64x32x1"];
  workload["shapes"]["prompt"] = {2, 3};
  workload["context"] = {{"flops", {{"linear", 1}}}, {"bytes", {{"weights", 1}}}};
}

struct Split : tiny::Folder {
  explicit Split(const std::function<void(tiny::Json&)>& change = [](tiny::Json&) {})
      : tiny::Folder([&](tiny::Json& m) {
          split(m);
          change(m);
        }) {
    write("context.onnx", "onnx");
    adapter = write("a.safetensors", tiny::adapter({{tiny::kLoraA, {1, 3}, {1, 2, 3}},
                                                    {tiny::kLoraB, {3, 1}, {10, 20, 30}}}));
  }
  std::string adapter;  // adds 66 to each value of k, so 396 to y
};

struct Fed {
  explicit Fed(const tiny::Folder& folder) : engine(folder.path()) {}

  std::vector<wanrt::Tensor> rest() {
    return {tiny::tensor("x", {2, 3}, x), tiny::tensor("timestep", {1}, timestep)};
  }
  wanrt::Context prepare(float value) {
    prompt.assign(6, value);
    return engine.prepare({tiny::tensor("prompt", {2, 3}, prompt)});
  }
  void bind_all(float value) {
    prompt.assign(6, value);
    auto inputs = rest();
    inputs.push_back(tiny::tensor("prompt", {2, 3}, prompt));
    engine.bind(inputs);
  }
  float first() {
    engine.forward();
    return engine.output().values<float>()[0];
  }

  Values x = {1, 2, 3, 4, 5, 6}, timestep = {500}, prompt;
  wanrt::Engine engine;
};

}  // namespace

TEST_CASE("two contexts alternate, and may be freed while they are bound") {
  const Split folder;
  Fed fed(folder);
  std::optional<wanrt::Context> one = fed.prepare(1);
  const wanrt::Context two = fed.prepare(2);
  CHECK(one->bytes() == 24);
  CHECK(one->seconds() >= 0);
  for (int i = 0; i < 2; ++i) {
    fed.engine.bind(two, fed.rest());
    CHECK(fed.first() == 13);
    fed.engine.bind(*one, fed.rest());
    CHECK(fed.first() == 7);
  }
  one.reset();
  fed.x[0] = 2;  // read in place, as ever
  CHECK(fed.first() == 8);
}

TEST_CASE("what a manifest tells of a split engine") {
  const Split folder;
  const wanrt::Manifest manifest(folder.path());
  CHECK(manifest.info().inputs == 3);
  CHECK(manifest.info().adapter_inputs == 2);
  CHECK(manifest.info().context_inputs == 1);
  CHECK(std::string(manifest.inputs()[0].name) == "x");
  CHECK(std::string(manifest.inputs()[2].name) == "prompt");
  const auto context = manifest.context_inputs();
  REQUIRE(context.size() == 1);
  CHECK(std::string(context[0].name) == "prompt");
  CHECK(context[0].bytes == 24);
  const tiny::Folder whole;
  CHECK(wanrt::Manifest(whole.path()).context_inputs().empty());
}

TEST_CASE("adapters and strengths make contexts stale, and what a caller bound with them") {
  const Split folder;
  Fed fed(folder);
  const wanrt::Context base = fed.prepare(1);
  fed.engine.bind(base, fed.rest());
  fed.engine.swap(folder.adapter, 0);
  CHECK(fed.first() == 7);  // at strength 0 nothing has changed
  fed.engine.swap(folder.adapter);
  CHECK_THROWS_WITH_AS(fed.engine.forward(), kStale, wanrt::Error);
  CHECK_THROWS_WITH_AS(fed.engine.time_forward(), kStale, wanrt::Error);
  CHECK_THROWS_WITH_AS(fed.engine.bind(base, fed.rest()), kStale, wanrt::Error);
  CHECK(fed.engine.output().values<float>()[0] == 7);
  const wanrt::Context adapted = fed.prepare(1);
  fed.engine.bind(adapted, fed.rest());
  CHECK(fed.first() == 403);
  fed.engine.swap(folder.adapter);  // the same again
  CHECK(fed.first() == 403);
  CHECK_THROWS_AS(fed.engine.set_strengths({1, 1}), wanrt::Error);
  CHECK(fed.first() == 403);
  fed.engine.set_strengths({0.5F});
  CHECK_THROWS_WITH_AS(fed.engine.forward(), kStale, wanrt::Error);
  fed.engine.bind(fed.prepare(1), fed.rest());
  CHECK(fed.first() == 1 + (6 * (1 + 60 + 3)));
}

TEST_CASE("with all inputs bound the engine prepares by itself, again after a swap") {
  const Split folder;
  Fed fed(folder);
  fed.bind_all(1);
  CHECK(fed.first() == 7);
  fed.engine.swap(folder.adapter);
  CHECK(fed.first() == 403);
  CHECK(fed.engine.time_forward() >= 0);
  fed.engine.swap();
  CHECK(fed.first() == 7);
}

TEST_CASE("wrong use is refused and leaves what is bound") {
  const Split folder;
  Fed fed(folder);
  Fed other(folder);
  const wanrt::Context context = fed.prepare(1);
  fed.engine.bind(context, fed.rest());
  CHECK_THROWS_WITH_AS(other.engine.bind(context, other.rest()),
                       "the context was prepared by another engine", wanrt::Error);
  CHECK_THROWS_WITH_AS(other.engine.forward(), "no inputs are bound", wanrt::Error);
  auto all = fed.rest();
  all.push_back(tiny::tensor("prompt", {2, 3}, fed.prompt));
  CHECK_THROWS_WITH_AS(fed.engine.bind(context, all), "there is no input prompt", wanrt::Error);
  CHECK_THROWS_WITH_AS(fed.engine.bind(fed.rest()), "input prompt is missing", wanrt::Error);
  CHECK_THROWS_WITH_AS((void)fed.engine.prepare({}), "input prompt is missing", wanrt::Error);
  CHECK_THROWS_WITH_AS((void)fed.engine.prepare(fed.rest()), "there is no input timestep",
                       wanrt::Error);
  CHECK_THROWS_WITH_AS((void)fed.engine.prepare({tiny::tensor("prompt", {3, 2}, fed.prompt)}),
                       "input prompt has shape [3, 2], the engine takes [2, 3]", wanrt::Error);
  CHECK_THROWS_WITH_AS((void)fed.engine.prepare({tiny::tensor("k", {2, 3}, fed.prompt)}),
                       "there is no input k", wanrt::Error);
  CHECK(fed.first() == 7);
  const tiny::Folder whole;
  Fed one(whole);
  const std::string why = "tiny has one graph, so there is no context to prepare";
  CHECK_THROWS_WITH_AS((void)one.prepare(1), why.c_str(), wanrt::Error);
  CHECK_THROWS_WITH_AS(one.engine.bind(context, one.rest()), why.c_str(), wanrt::Error);
}

TEST_CASE("a context outlives its engine, and isn't the next one's") {
  const Split folder;
  std::optional<Fed> fed(folder);
  const wanrt::Context context = fed->prepare(1);
  fed.reset();
  Fed next(folder);
  CHECK_THROWS_WITH_AS(next.engine.bind(context, next.rest()),
                       "the context was prepared by another engine", wanrt::Error);
  CHECK(context.bytes() == 24);
}

TEST_CASE("null pointers of contexts are the host's mistakes") {
  const Split folder;
  wanrt_engine* engine = nullptr;
  wanrt_error error = {};
  REQUIRE(wanrt_open(folder.path().c_str(), nullptr, &engine, &error) == WANRT_OK);
  CHECK(wanrt_prepare(engine, nullptr, 0, nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(std::string(error.message) == "context is a null pointer");
  CHECK(wanrt_bind_context(engine, nullptr, nullptr, 0, nullptr, 0, &error) == WANRT_USAGE_ERROR);
  CHECK(std::string(error.message) == "context is a null pointer");
  CHECK(wanrt_close(engine, &error) == WANRT_OK);
}
