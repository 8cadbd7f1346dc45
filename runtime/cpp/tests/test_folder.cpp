// Engine folders whose files aren't the manifest's.
#include <doctest/doctest.h>

#include <filesystem>
#include <string>

#include "tiny.h"

namespace {

namespace fs = std::filesystem;

std::string refusal(const std::string& path) {
  try {
    const wanrt::Manifest manifest(path);
  } catch (const wanrt::Error& error) {
    CHECK(error.status() == WANRT_MANIFEST_ERROR);
    return error.what();
  }
  return "nothing";
}

}  // namespace

TEST_CASE("no engine folder") {
  const tiny::Folder folder;
  CHECK(refusal(folder.file("none")) ==
        folder.file("none") + " is not an engine folder: it has no engine.json");
  CHECK(refusal(folder.file("model.onnx")) ==
        folder.file("model.onnx") + " is a file, not an engine folder");
  fs::remove(folder.file("engine.json"));
  fs::create_directory(folder.file("engine.json"));
  CHECK(refusal(folder.path()) == folder.file("engine.json") + " is not a file");
}

TEST_CASE("a manifest that is too large isn't read") {
  const tiny::Folder folder;
  fs::resize_file(folder.file("engine.json"), (64U << 20U) + 1);
  CHECK(refusal(folder.path()) == folder.file("engine.json") + " is larger than 64 MiB");
}

TEST_CASE("files that are missing, cut off, moved or written over") {
  const tiny::Folder folder;
  fs::remove(folder.file("model.onnx"));
  CHECK(refusal(folder.path()) == folder.file("model.onnx") + " is missing");
  fs::create_directory(folder.file("model.onnx"));
  CHECK(refusal(folder.path()) == folder.file("model.onnx") + " is not a file");
  fs::remove(folder.file("model.onnx"));
  folder.write("model.onnx", "onn");
  CHECK(refusal(folder.path()) == folder.file("model.onnx") + " has 3 bytes, engine.json says 4");
  fs::remove(folder.file("model.onnx"));
  fs::create_symlink("/proc/self/exe", folder.file("model.onnx"));
  CHECK(refusal(folder.path()) == folder.file("model.onnx") + " leads out of the engine folder");
  fs::remove(folder.file("model.onnx"));
  fs::create_symlink("other.onnx", folder.file("model.onnx"));
  folder.write("other.onnx", "onnx");
  CHECK(refusal(folder.path()) == "nothing");
  fs::last_write_time(folder.weights(), fs::file_time_type::clock::now());
  CHECK(refusal(folder.path()).find("its mtime isn't the recorded one") != std::string::npos);
}

TEST_CASE("a copy may be moved, but must be safetensors") {
  const tiny::Folder folder([](tiny::Json& m) { m["weights"][0]["storage"] = "copy"; });
  fs::last_write_time(folder.weights(), fs::file_time_type::clock::now());
  CHECK(refusal(folder.path()) == "nothing");
  folder.write("weights/w.safetensors", std::string(fs::file_size(folder.weights()), '\xFF'));
  CHECK(refusal(folder.path()).find("isn't a safetensors file: its header can't have") !=
        std::string::npos);
}

TEST_CASE("a folder that is reached by a link") {
  const tiny::Folder folder;
  fs::create_directory_symlink(folder.path(), folder.file("again"));
  CHECK(refusal(folder.file("again")) == "nothing");
}
