// engine.json alone. What Python refuses too is tested with Python's own cases, by
// tests/cpp/test_manifest.py.
#include <doctest/doctest.h>

#include <string>

#include "error.h"
#include "manifest/manifest.h"
#include "tiny.h"

namespace {

std::string refusal(const std::string& text) {
  try {
    wanrt::impl::parse_manifest(text, "engine.json");
  } catch (const wanrt::impl::Error& error) {
    CHECK(error.status() == WANRT_MANIFEST_ERROR);
    CHECK(!error.hint().empty());
    return error.what();
  }
  return "nothing";
}

tiny::Json sound() {
  const tiny::Folder folder;
  return tiny::Json::parse(wanrt::Manifest(folder.path()).json());
}

}  // namespace

TEST_CASE("more dimensions than libwanrt takes") {
  tiny::Json json = sound();
  json["graphs"]["forward"]["inputs"][0]["shape"] = tiny::Json(9, 1);
  CHECK(refusal(json.dump()) ==
        "engine.json: graphs.forward.inputs.0.shape: libwanrt takes 8 dimensions at most");
}

TEST_CASE("a newer schema is named with the one that is known") {
  tiny::Json json = sound();
  json["schema_version"] = 2;
  CHECK(refusal(json.dump()) == "engine.json has schema version 2, this libwanrt reads up to 1");
}

TEST_CASE("defaults") {
  tiny::Json json = sound();
  json["graphs"]["forward"]["inputs"][0]["role"] = "data";
  json["graphs"]["forward"]["inputs"][0]["module"] = nullptr;
  json["graphs"]["forward"]["inputs"][0]["range"] = nullptr;
  json["adapters"] = tiny::Json::array();
  json["verification"]["error"] = nullptr;
  CHECK(refusal(json.dump()) == "nothing");
}

TEST_CASE("what this version can't run is read, and refused where it is run") {
  const tiny::Folder folder([](tiny::Json& json) {
    json["quantization"] = {{"scheme", "fp8"},
                            {"weights", "channel"},
                            {"activations", nullptr},
                            {"origin", "pristine"}};
  });
  CHECK(std::string(wanrt::Manifest(folder.path()).json()).find("fp8") != std::string::npos);
  try {
    const wanrt::Engine engine(folder.path());
    FAIL("it runs");
  } catch (const wanrt::Error& error) {
    CHECK(error.status() == WANRT_UNSUPPORTED);
    CHECK(std::string(error.what()) ==
          "this engine is quantised to fp8; this version runs int8, and fp8 with TensorRT");
    CHECK(error.hint() == "upgrade libwanrt");
  }
}
