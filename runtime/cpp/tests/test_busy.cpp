// One engine and two threads: the second caller is refused, and nothing else happens.
#include <doctest/doctest.h>

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "stub.h"
#include "tiny.h"

namespace {

using Values = std::vector<float>;

// An engine that is in a forward of another thread's.
struct Running {
  explicit Running(const tiny::Folder& folder) : engine(folder) {
    wanrt::call(wanrt_bind, engine.handle, engine.inputs.data(), engine.inputs.size(),
                static_cast<const wanrt_tensor*>(nullptr), std::size_t{0});
    thread = std::thread([this] { status = wanrt_forward(engine.handle, nullptr); });
    stub::wait_for_forward();
  }
  ~Running() {
    end();
    CHECK(wanrt_close(engine.handle, nullptr) == WANRT_OK);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  Running(Running&&) = delete;
  Running& operator=(Running&&) = delete;

  void end() {
    if (thread.joinable()) {
      stub::let_go();
      thread.join();
    }
  }

  struct Opened {
    explicit Opened(const tiny::Folder& folder) {
      wanrt::call(wanrt_open, folder.path().c_str(), static_cast<const wanrt_options*>(nullptr),
                  &handle);
    }
    wanrt_engine* handle = nullptr;
    Values x = {1, 2, 3, 4, 5, 6}, timestep = {500};
    std::vector<wanrt_tensor> inputs = {tiny::tensor("x", {2, 3}, x),
                                        tiny::tensor("timestep", {1}, timestep)};
  };

  Opened engine;
  std::thread thread;
  wanrt_status status = WANRT_INTERNAL_ERROR;
};

}  // namespace

TEST_CASE("an engine in a forward refuses every other call") {
  const tiny::Folder folder([](tiny::Json& m) { m["name"] = stub::kWaits; });
  Running running(folder);
  wanrt_engine* engine = running.engine.handle;
  wanrt_error error = {};
  wanrt_tensor output = {};
  double seconds = -1;
  CHECK(wanrt_forward(engine, &error) == WANRT_BUSY);
  CHECK(std::string(error.message) == folder.path() + " is in use by another thread");
  CHECK(std::string(error.hint) ==
        "let one thread at a time call it, or open an engine per thread");
  CHECK(wanrt_time_forward(engine, &seconds, &error) == WANRT_BUSY);
  CHECK(seconds == -1);
  CHECK(wanrt_bind(engine, nullptr, 0, nullptr, 0, &error) == WANRT_BUSY);
  wanrt_context* context = nullptr;
  CHECK(wanrt_prepare(engine, nullptr, 0, &context, &error) == WANRT_BUSY);
  CHECK(wanrt_bind_context(engine, nullptr, nullptr, 0, nullptr, 0, &error) == WANRT_BUSY);
  CHECK(context == nullptr);
  CHECK(wanrt_output(engine, 0, &output, &error) == WANRT_BUSY);
  CHECK(output.name == nullptr);
  CHECK(wanrt_swap(engine, nullptr, 0, &error) == WANRT_BUSY);
  CHECK(wanrt_set_strengths(engine, nullptr, 0, &error) == WANRT_BUSY);
  CHECK(wanrt_close(engine, &error) == WANRT_BUSY);
  // what is no call of the engine's
  CHECK(tiny::Json::parse(wanrt_manifest_json(wanrt_engine_manifest(engine)))["name"] ==
        stub::kWaits);

  running.end();
  CHECK(running.status == WANRT_OK);
  REQUIRE(wanrt_output(engine, 0, &output, &error) == WANRT_OK);
  CHECK(static_cast<const float*>(output.data)[5] == 6);
}

TEST_CASE("an engine that is closed while it is used throws, and lives on") {
  const tiny::Folder folder([](tiny::Json& m) { m["name"] = stub::kWaits; });
  wanrt::Engine engine(folder.path());
  Values x(6);
  Values timestep(1);
  engine.bind({tiny::tensor("x", {2, 3}, x), tiny::tensor("timestep", {1}, timestep)});
  std::thread thread([&] { engine.forward(); });
  stub::wait_for_forward();
  CHECK_THROWS_WITH_AS(engine.close(), (folder.path() + " is in use by another thread").c_str(),
                       wanrt::Error);
  stub::let_go();
  thread.join();
  CHECK(engine.output().bytes == 24);
  engine.close();
  CHECK_THROWS_WITH(engine.forward(), "engine is a null pointer");
}

TEST_CASE("threads that take an engine by chance get right outputs or none") {
  const tiny::Folder folder;
  wanrt::Engine engine(folder.path());
  Values x = {1, 2, 3, 4, 5, 6};
  Values timestep = {500};
  engine.bind({tiny::tensor("x", {2, 3}, x), tiny::tensor("timestep", {1}, timestep)});
  constexpr int kCalls = 2000;
  std::atomic<int> others = 0;
  const auto work = [&] {
    for (int i = 0; i < kCalls; ++i) {
      try {
        engine.forward();
        engine.swap();
      } catch (const wanrt::Error& error) {
        others += error.status() == WANRT_BUSY ? 0 : 1;
      }
    }
  };
  std::thread first(work);
  std::thread second(work);
  first.join();
  second.join();
  CHECK(others == 0);
  engine.forward();
  const auto y = engine.output().values<float>();
  CHECK(Values(y.begin(), y.end()) == x);
}
