// Forwards of a plan: memory, streams, profiles, the CUDA graph, the adapter's inputs.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "plans.h"

namespace {

using plans::Fed;
using plans::Json;
using plans::kOwn;
using plans::Values;

// Device memory of a host's.
class Device {
 public:
  explicit Device(const Values& values) : count_(values.size()) {
    REQUIRE(cudaMalloc(&data_, 512) == cudaSuccess);
    std::copy(values.begin(), values.end(), static_cast<float*>(data_));
  }
  ~Device() { cudaFree(data_); }
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;
  Device(Device&&) = delete;
  Device& operator=(Device&&) = delete;

  [[nodiscard]] wanrt::Tensor tensor(const wanrt::Tensor& like, std::size_t skip = 0) const {
    wanrt::Tensor made = like;
    made.memory = WANRT_DEVICE;
    made.data = static_cast<std::byte*>(data_) + skip;
    return made;
  }
  [[nodiscard]] Values values() const {
    const auto* begin = static_cast<const float*>(data_);
    return {begin, begin + count_};
  }

 private:
  void* data_ = nullptr;
  std::size_t count_;
};

// x may have 2 or 4 rows, each with a profile of its own.
tiny::Folder two_workloads() {
  return plans::separate([](Json& plan, Json& manifest) {
    Json& graph = manifest["graphs"]["forward"];
    graph["inputs"][0]["shape"] = {"rows", 3};
    graph["outputs"][0]["shape"] = {"rows", 3};
    Json large = manifest["workloads"]["64x32x1"];
    large["shapes"]["x"] = {4, 3};
    manifest["workloads"]["64x64x1"] = large;
    graph["plan"]["profiles"] = {"64x64x1", "64x32x1"};
    plan["inputs"]["x"]["shapes"] = {{4, 3}, {2, 3}};
    plan["inputs"]["timestep"]["shapes"] = {Json::array({1}), Json::array({1})};
  });
}

std::string refusal(Fed& fed, const std::vector<wanrt::Tensor>& inputs) {
  try {
    fed.engine.bind(inputs);
  } catch (const wanrt::Error& error) {
    return error.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("host memory is copied at each forward") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::separate();
  Fed fed(folder);
  CHECK(fed.run() == kOwn);
  fed.x[0] = 5;  // without another bind
  CHECK(fed.run() == kOwn + 5);
  Values y(6);
  fed.engine.bind({fed.first, fed.second}, {tiny::tensor("y", {2, 3}, y)});
  fed.engine.forward();
  CHECK(y[0] == kOwn + 5);
  CHECK(y[5] == kOwn);
}

TEST_CASE("device memory is read and written in place") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::separate();
  Fed fed(folder);
  const Device x(Values(6, 7)), timestep({1}), y(Values(6));
  const wanrt::Tensor out = y.tensor(fed.engine.output());
  fed.engine.bind({x.tensor(fed.first), timestep.tensor(fed.second)}, {out});
  fed.engine.forward();
  CHECK(y.values() == Values(6, kOwn + 7));
  CHECK(fed.engine.output().data == out.data);
  CHECK(fed.engine.output().memory == WANRT_DEVICE);
  CHECK(refusal(fed, {x.tensor(fed.first, 4), fed.second}) ==
        "x's device memory isn't a multiple of 256");
  CHECK_THROWS_WITH(fed.engine.forward(), "no inputs are bound");
}

TEST_CASE("a caller's stream") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::separate();
  cudaStream_t stream = nullptr;
  REQUIRE(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
  {
    wanrt_options options = plans::on_gpu();
    options.stream = stream;
    Fed fed(folder, options);
    for (int i = 0; i < 3; ++i) {  // enqueued, captured, launched
      fed.x[0] = static_cast<float>(i + 1);
      const float before = fed.engine.output().values<float>()[0];
      CHECK(fed.run() == before);
      REQUIRE(cudaStreamSynchronize(stream) == cudaSuccess);
      CHECK(fed.engine.output().values<float>()[0] == kOwn + fed.x[0]);
    }
    CHECK(fake::state().captures == 1);
    fed.x[0] = 9;
    CHECK(fed.engine.time_forward() == doctest::Approx(0.002));
    CHECK(fed.engine.output().values<float>()[0] == kOwn + 9);  // it waits
  }
  cudaStreamDestroy(stream);
  CHECK(fake::state().device_bytes == 0);
}

TEST_CASE("forwards are timed by the device") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::separate();
  Fed fed(folder);
  for (int i = 0; i < 3; ++i) {
    CHECK(fed.engine.time_forward() == doctest::Approx(0.002));
  }
}

TEST_CASE("a graph is captured after one forward, and again when something changes") {
  const plans::Reset reset;
  const tiny::Folder folder = two_workloads();
  const fake::State& done = fake::state();
  Fed fed(folder);
  const auto run = [&](int captures, int launches) {
    CHECK(fed.run() == kOwn);
    CHECK(done.captures == captures);
    CHECK(done.launches == launches);
  };
  run(0, 0);
  run(1, 1);
  run(1, 2);
  fed.bind();  // the same memory
  run(1, 3);
  Values other(6);
  fed.engine.bind({tiny::tensor("x", {2, 3}, other), fed.second});  // copied to the same place
  run(1, 4);
  Values y(6);
  Values large(12);
  fed.engine.bind({tiny::tensor("x", {4, 3}, large), fed.second});
  run(1, 4);
  run(2, 5);
  const Device x(large);
  fed.engine.bind({x.tensor(tiny::tensor("x", {4, 3}, large)), fed.second});
  run(2, 5);
  run(3, 6);
  fed.bind();
  run(3, 6);
  run(4, 7);
}

TEST_CASE("without a graph") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::separate();
  wanrt_options options = plans::on_gpu();
  options.no_graph = 1;
  Fed fed(folder, options);
  for (int i = 0; i < 3; ++i) {
    CHECK(fed.run() == kOwn);
  }
  CHECK(fake::state().captures == 0);
  CHECK(fake::state().enqueues == 3);
}

TEST_CASE("an engine that can't be captured says what to do") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::separate();
  Fed fed(folder);
  CHECK(fed.run() == kOwn);
  fake::state().failing = "cudaStreamEndCapture";
  try {
    fed.engine.forward();
    FAIL("captured");
  } catch (const wanrt::Error& error) {
    CHECK(std::string(error.what()) ==
          "this engine can't be captured as a CUDA graph: unknown error");
    CHECK(error.hint() == "open it with no_graph (wanrt-host --no-graph)");
  }
}

TEST_CASE("a forward that fails, and one after it") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::separate();
  Fed fed(folder);
  fake::state().failing = "enqueueV3";
  CHECK_THROWS_WITH(fed.engine.forward(),
                    (folder.path() + ": TensorRT can't run: the stand-in can't run").c_str());
  CHECK(fed.run() == kOwn);
  fake::state().failing = "cudaStreamSynchronize";
  CHECK_THROWS_WITH(fed.engine.forward(), "CUDA can't run: unknown error");
}

TEST_CASE("shapes of no workload") {
  const plans::Reset reset;
  const tiny::Folder folder = two_workloads();
  Fed fed(folder);
  Values three(9);
  CHECK(refusal(fed, {tiny::tensor("x", {3, 3}, three), fed.second}) ==
        folder.path() + " was built for other shapes than these");
  fed.bind();
  CHECK(fed.run() == kOwn);
}

TEST_CASE("a plan that writes another shape than engine.json says") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::separate(
      [](Json&, Json& m) { m["graphs"]["forward"]["outputs"][0]["shape"] = {3, 2}; });
  CHECK_THROWS_WITH(
      Fed{folder},
      (folder.path() + ": TensorRT writes y of shape [2, 3], engine.json says [3, 2]").c_str());
}

TEST_CASE("an output whose size only a forward tells") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::separate([](Json&, Json& m) {
    m["graphs"]["forward"]["outputs"][0]["shape"] = Json::array({"found"});
  });
  CHECK_THROWS_WITH(Fed{folder}, "output y has a size that only a forward tells");
}

TEST_CASE("a swap changes values, not addresses") {
  const plans::Reset reset;
  const tiny::Folder folder = plans::swappable();
  const std::string adapter = folder.write(
      "a.safetensors",
      tiny::adapter({{tiny::kLoraA, {1, 3}, {1, 2, 3}}, {tiny::kLoraB, {3, 1}, {10, 20, 30}}}));
  Fed fed(folder);
  CHECK(fed.run() == kOwn);
  CHECK(fed.run() == kOwn);
  fed.engine.swap(adapter);
  CHECK(fed.run() == kOwn + 66);
  CHECK_THROWS_AS(fed.engine.swap(folder.file("none")), wanrt::Error);
  CHECK(fed.run() == kOwn + 66);
  fed.engine.set_strengths({0.5F});
  CHECK(fed.run() == kOwn + 63);  // A's values at half strength
  fed.engine.swap({{adapter, 1}, {adapter, -1}});
  CHECK(fed.run() == kOwn + 120);
  fed.engine.swap();
  CHECK(fed.run() == kOwn);
  CHECK(fake::state().captures == 1);
  CHECK(fake::state().refits == 1);
}
