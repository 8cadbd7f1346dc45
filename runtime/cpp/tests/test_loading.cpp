// Loading, told to the host, who may give up.
#include <doctest/doctest.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "stub.h"
#include "tiny.h"

namespace {

struct Told {
  std::vector<std::uint64_t> done;
  std::uint64_t total = 0;
  std::thread::id thread;
  int answer = 0;
};

int tell(void* context, std::uint64_t done, std::uint64_t total) {
  auto& told = *static_cast<Told*>(context);
  told.done.push_back(done);
  told.total = total;
  told.thread = std::this_thread::get_id();
  return told.answer;
}

wanrt_options watched(Told& told) {
  wanrt_options options = {};
  options.progress = tell;
  options.progress_context = &told;
  return options;
}

}  // namespace

TEST_CASE("loading is told to its end, in the thread that asked for it") {
  const tiny::Folder folder;
  Told told;
  const wanrt::Engine engine(folder.path(), watched(told));
  REQUIRE(!told.done.empty());
  CHECK(told.done.back() == 24);
  CHECK(told.total == 24);
  CHECK(told.thread == std::this_thread::get_id());
}

TEST_CASE("a host that gives up gets no engine") {
  const tiny::Folder folder;
  Told told;
  told.answer = 1;
  const wanrt_options options = watched(told);
  wanrt_engine* engine = nullptr;
  wanrt_error error = {};
  CHECK(wanrt_open(folder.path().c_str(), &options, &engine, &error) == WANRT_CANCELLED);
  CHECK(std::string(error.message) == folder.path() + " was not loaded: the caller gave up");
  CHECK(engine == nullptr);
  CHECK(told.done.size() == 1);
}

TEST_CASE("a backend that fails is told of as ever") {
  for (const char* name : {stub::kFailsToOpen, stub::kThrows}) {
    const tiny::Folder folder([&](tiny::Json& m) { m["name"] = name; });
    Told told;
    const wanrt_options options = watched(told);
    wanrt_engine* engine = nullptr;
    const wanrt_status status = wanrt_open(folder.path().c_str(), &options, &engine, nullptr);
    CHECK(status == (name == stub::kThrows ? WANRT_INTERNAL_ERROR : WANRT_UNSUPPORTED));
  }
}

TEST_CASE("progress in C++ may give up and throw") {
  const tiny::Folder folder;
  const auto open = [&](const wanrt::Progress& progress) {
    const wanrt::Engine engine(folder.path(), wanrt_options(), progress);
  };
  std::uint64_t last = 0;
  open([&](std::uint64_t done, std::uint64_t) {
    last = done;
    return true;
  });
  CHECK(last == 24);
  CHECK_THROWS_AS(open([](std::uint64_t, std::uint64_t) { return false; }), wanrt::Error);
  CHECK_THROWS_WITH_AS(
      open([](std::uint64_t, std::uint64_t) -> bool { throw std::logic_error("the host's own"); }),
      "the host's own", std::logic_error);
}
