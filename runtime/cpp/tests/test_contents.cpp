// Files whose bytes aren't the ones that engine.json records, of the right size.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>
#include <vector>

#include "file.h"
#include "hashes.h"
#include "tiny.h"

namespace {

namespace fs = std::filesystem;

using Values = std::vector<float>;

std::string sha256(const std::string& path) {
  return wanrt::impl::sha256_file(wanrt::impl::File(path));
}

std::string refusal(const tiny::Folder& folder) {
  try {
    const wanrt::Engine engine(folder.path());
  } catch (const wanrt::Error& error) {
    CHECK(error.status() == WANRT_MANIFEST_ERROR);
    CHECK(error.hint() == "rebuild the engine with --force");
    return error.what();
  }
  return "nothing";
}

// Write engine.json again, once the files it names are there.
template <typename Change>
void record(const tiny::Folder& folder, Change change) {
  tiny::Json json = tiny::Json::parse(wanrt::Manifest(folder.path()).json());
  change(json);
  folder.write("engine.json", json.dump());
}

tiny::Json entry(const tiny::Folder& folder, const std::string& name) {
  return {{"file", name},
          {"bytes", fs::file_size(folder.file(name))},
          {"sha256", sha256(folder.file(name))}};
}

}  // namespace

TEST_CASE("hashes of files of every size about a block's") {
  const tiny::Folder folder;
  CHECK(sha256(folder.write("empty", "")) ==
        "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  CHECK(sha256(folder.write("abc", "abc")) ==
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  const std::string block(4U << 20U, 'x');
  CHECK(sha256(folder.write("block", block)) ==
        "baa7a6d36ffa957552df230235c2d51d735f28d49c58a5f3438a3a973a25a37d");
  CHECK(sha256(folder.write("more", block + "y")) ==
        "c0f311c4c2bca602f334086563dbe8081cdd1dba8ae21759d9ce4fc06ac55c1d");
}

TEST_CASE("a graph of the same size") {
  const tiny::Folder folder;
  CHECK(refusal(folder) == "nothing");
  folder.write("model.onnx", "onny");
  CHECK(refusal(folder) ==
        folder.file("model.onnx") + ": its bytes are not the recorded ones (sha256)");
  CHECK(std::string(wanrt::Manifest(folder.path()).info().name) == "tiny");
}

TEST_CASE("an emulated graph, constants, and weights, which are left to wanrt verify") {
  const tiny::Folder folder;
  folder.write("emulated.onnx", "onnx");
  record(folder, [&](tiny::Json& m) {
    m["graphs"]["forward"]["emulated"] = entry(folder, "emulated.onnx");
  });
  CHECK(refusal(folder) == "nothing");
  folder.write("emulated.onnx", "onny");
  CHECK(refusal(folder) ==
        folder.file("emulated.onnx") + ": its bytes are not the recorded ones (sha256)");
  folder.write("emulated.onnx", "onnx");
  record(folder, [&](tiny::Json& m) { m["weights"][0]["origin"] = "constants"; });
  CHECK(refusal(folder) == folder.weights() + ": its bytes are not the recorded ones (sha256)");
  record(folder, [&](tiny::Json& m) { m["weights"][0]["sha256"] = sha256(folder.weights()); });
  CHECK(refusal(folder) == "nothing");
}

TEST_CASE("an adapter of the folder is hashed when it is first read") {
  const tiny::Folder folder;
  const auto adapter = [](float value) {
    return tiny::adapter(
        {{tiny::kLoraA, {1, 3}, Values(3, value)}, {tiny::kLoraB, {3, 1}, Values(3, 1)}});
  };
  const std::string path = folder.write("adapters/r1.safetensors", adapter(1));
  record(folder, [&](tiny::Json& m) {
    m["adapters"] = tiny::Json::array({entry(folder, "adapters/r1.safetensors")});
    m["adapters"][0]["rank"] = 1;
  });
  wanrt::Engine engine(folder.path());
  engine.swap(path);
  const auto written = fs::last_write_time(path);
  folder.write("adapters/r1.safetensors", adapter(2));
  fs::last_write_time(path, written);
  engine.swap(path);  // device, inode, size and time are what was hashed
  fs::last_write_time(path, written + std::chrono::seconds(1));
  const std::string problem = path + " has other bytes than engine.json records (sha256)";
  CHECK_THROWS_WITH_AS(engine.swap(path), problem.c_str(), wanrt::Error);
  wanrt::Engine other(folder.path());
  CHECK_THROWS_WITH_AS(other.swap(path), problem.c_str(), wanrt::Error);
  fs::create_hard_link(path, folder.file("elsewhere"));
  CHECK_THROWS_AS(other.swap(folder.file("elsewhere")), wanrt::Error);
  other.swap(folder.write("copy", adapter(2)));
}
