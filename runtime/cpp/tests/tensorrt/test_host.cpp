// wanrt-host on engines of a plan.
#include <doctest/doctest.h>

#include <array>
#include <cstdio>
#include <string>

#include "plans.h"

namespace {

std::string host(const std::string& arguments) {
  FILE* pipe = popen((WANRT_TOOL_PATH " " + arguments + " 2>&1").c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::string text;
  std::array<char, 256> part = {};
  while (std::fgets(part.data(), part.size(), pipe) != nullptr) {
    text += part.data();
  }
  return text + (pclose(pipe) == 0 ? "" : "failed\n");
}

bool contains(const std::string& text, const std::string& part) {
  INFO(text);
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("wanrt-host runs plans and changes adapters") {
  const tiny::Folder folder = plans::merged();
  const std::string adapter = folder.write(
      "a.safetensors",
      tiny::adapter({{"to_q.lora_A", {1, 3}, {1, 2, 3}}, {"to_q.lora_B", {3, 1}, {10, 20, 30}}}));
  const auto golden = [&](const char* name, float value) {
    return folder.write(name, tiny::safetensors({{"y", {2, 3}, plans::Values(6, value)}}, nullptr));
  };
  const std::string inputs = folder.write(
      "x.safetensors",
      tiny::safetensors({{"x", {2, 3}, plans::Values(6)}, {"timestep", {1}, {1}}}, nullptr));
  const std::string own = golden("own.safetensors", plans::kOwn);
  const std::string adapted = golden("adapted.safetensors", plans::kBase + 360);
  const std::string told =
      host(folder.path() + " --device cuda --inputs " + inputs + " --adapter " + adapter +
           " --golden " + adapted + " --adapter base --golden " + own);
  CHECK(contains(told, "y equals " + adapted + " bit by bit\n"));
  CHECK(contains(told, "y equals " + own + " bit by bit\n"));
  CHECK(contains(told, "base: 2 ms, 1000 tokens per second\n"));
  CHECK(!contains(told, "failed"));
  CHECK(contains(host("--info " + folder.path()), "tiny: merged r2 fp32, 64x32x1, 2 tokens"));
  CHECK(contains(host(folder.path() + " --device cuda --no-graph"), "forward: 2 ms"));
  CHECK(
      contains(host(folder.path()), "is a TensorRT engine and runs on a GPU\nhint: open it with"));
  CHECK(contains(host("--version"), WANRT_BACKEND));
}
