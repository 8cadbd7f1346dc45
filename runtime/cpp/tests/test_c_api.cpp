// The C ABI: the host's mistakes, failures of the backend, and what a manifest tells.
#include <doctest/doctest.h>

#include <climits>
#include <cstdint>
#include <cstring>
#include <string>

#include "stub.h"
#include "tiny.h"

namespace {

wanrt_error make_error() {
  wanrt_error error;
  std::memset(&error, 'x', sizeof error);
  return error;
}

std::string fail(wanrt_status got, wanrt_status want, const wanrt_error& error) {
  CHECK(got == want);
  return error.message;
}

}  // namespace

TEST_CASE("null pointers are the host's mistakes") {
  const tiny::Folder folder;
  wanrt_error error = make_error();
  wanrt_engine* engine = nullptr;
  CHECK(fail(wanrt_open(nullptr, nullptr, &engine, &error), WANRT_USAGE_ERROR, error) ==
        "folder is a null pointer");
  CHECK(wanrt_open(folder.path().c_str(), nullptr, nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_manifest_read(nullptr, nullptr, nullptr) == WANRT_USAGE_ERROR);
  CHECK(wanrt_manifest_info(nullptr, nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_manifest_workload(nullptr, 0, nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_manifest_tensor(nullptr, nullptr, WANRT_INPUT, 0, nullptr, &error) ==
        WANRT_USAGE_ERROR);
  CHECK(wanrt_bind(nullptr, nullptr, 0, nullptr, 0, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_prepare(nullptr, nullptr, 0, nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_bind_context(nullptr, nullptr, nullptr, 0, nullptr, 0, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_context_info(nullptr, nullptr, nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_forward(nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_time_forward(nullptr, nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_output(nullptr, 0, nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_swap(nullptr, nullptr, 0, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_set_strengths(nullptr, nullptr, 0, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_tensors_read(nullptr, nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_tensors_get(nullptr, 0, nullptr, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_manifest_json(nullptr) == nullptr);
  CHECK(wanrt_engine_manifest(nullptr) == nullptr);
  CHECK(wanrt_close(nullptr, &error) == WANRT_OK);
  wanrt_manifest_free(nullptr);
  wanrt_context_free(nullptr);
  wanrt_tensors_free(nullptr);
}

TEST_CASE("empty paths, as of an unset variable, aren't the root folder") {
  const tiny::Folder folder;
  wanrt_error error = make_error();
  wanrt_engine* engine = nullptr;
  wanrt_manifest* manifest = nullptr;
  wanrt_tensors* tensors = nullptr;
  CHECK(fail(wanrt_open("", nullptr, &engine, &error), WANRT_USAGE_ERROR, error) ==
        "folder is an empty string");
  CHECK(wanrt_manifest_read("", &manifest, &error) == WANRT_USAGE_ERROR);
  CHECK(fail(wanrt_tensors_read("", &tensors, &error), WANRT_USAGE_ERROR, error) ==
        "path is an empty string");
  wanrt::Engine opened(folder.path());
  CHECK_THROWS_WITH_AS(opened.swap(""), "adapter is an empty string", wanrt::Error);
  CHECK(engine == nullptr);
  CHECK(manifest == nullptr);
  CHECK(tensors == nullptr);
}

TEST_CASE("values that no enumeration has, and indices past the last") {
  const tiny::Folder folder;
  wanrt_error error = make_error();
  wanrt_manifest* manifest = nullptr;
  REQUIRE(wanrt_manifest_read(folder.path().c_str(), &manifest, &error) == WANRT_OK);
  wanrt_tensor tensor = {};
  wanrt_workload workload = {};
  CHECK(fail(wanrt_manifest_tensor(manifest, nullptr, static_cast<wanrt_kind>(999), 0, &tensor,
                                   &error),
             WANRT_USAGE_ERROR, error) == "there is no kind 999");
  CHECK(wanrt_manifest_tensor(manifest, nullptr, WANRT_OUTPUT, SIZE_MAX, &tensor, &error) ==
        WANRT_USAGE_ERROR);
  CHECK(wanrt_manifest_tensor(manifest, "", WANRT_OUTPUT, 0, &tensor, &error) == WANRT_USAGE_ERROR);
  CHECK(wanrt_manifest_workload(manifest, SIZE_MAX, &workload, &error) == WANRT_USAGE_ERROR);
  wanrt_manifest_free(manifest);
  wanrt_tensors* tensors = nullptr;
  REQUIRE(wanrt_tensors_read(folder.weights().c_str(), &tensors, &error) == WANRT_OK);
  CHECK(wanrt_tensors_get(tensors, SIZE_MAX, &tensor, &error) == WANRT_OK);
  CHECK(tensor.name == nullptr);
  wanrt_tensors_free(tensors);
}

TEST_CASE("a failure says what and what to do, a success clears both") {
  const tiny::Folder folder([](tiny::Json& m) { m["name"] = stub::kFailsToOpen; });
  wanrt_error error = make_error();
  wanrt_engine* engine = nullptr;
  CHECK(wanrt_open(folder.path().c_str(), nullptr, &engine, &error) == WANRT_UNSUPPORTED);
  CHECK(std::string(error.message) == "the stub can't open");
  CHECK(std::string(error.hint) == "try another");
  CHECK(engine == nullptr);
  wanrt_manifest* manifest = nullptr;
  CHECK(wanrt_manifest_read(folder.path().c_str(), &manifest, &error) == WANRT_OK);
  CHECK(std::string(error.message).empty());
  CHECK(std::string(error.hint).empty());
  wanrt_manifest_free(manifest);
}

TEST_CASE("whatever is thrown inside becomes a status") {
  const tiny::Folder folder([](tiny::Json& m) { m["name"] = stub::kThrows; });
  wanrt_error error = make_error();
  wanrt_engine* engine = nullptr;
  CHECK(wanrt_open(folder.path().c_str(), nullptr, &engine, &error) == WANRT_INTERNAL_ERROR);
}

TEST_CASE("long messages are cut between characters") {
  const std::string longest = "/" + std::string(3, 'a');
  std::string path = longest;
  for (int i = 0; i < 2000; ++i) {
    path += "\xC3\xA4";
  }
  wanrt_error error = make_error();
  wanrt_manifest* manifest = nullptr;
  CHECK(wanrt_manifest_read(path.c_str(), &manifest, &error) == WANRT_MANIFEST_ERROR);
  const std::string message = error.message;
  CHECK(message.size() >= sizeof error.message - 2);
  CHECK(message.back() == '\xA4');
}

TEST_CASE("a message is one line, whatever a file holds") {
  const tiny::Folder folder([](tiny::Json& m) { m["a\nb\x1B"] = 1; });
  wanrt_error error = make_error();
  wanrt_manifest* manifest = nullptr;
  CHECK(fail(wanrt_manifest_read(folder.path().c_str(), &manifest, &error), WANRT_MANIFEST_ERROR,
             error) == folder.file("engine.json") + ": a b : Extra inputs are not permitted");
}

TEST_CASE("options that make no sense") {
  const tiny::Folder folder;
  wanrt_error error = make_error();
  wanrt_engine* engine = nullptr;
  const auto open = [&](const wanrt_options& options) {
    return wanrt_open(folder.path().c_str(), &options, &engine, &error);
  };
  wanrt_options options = {};
  for (const int threads : {-1, 1025, 5000, INT_MAX, INT_MIN}) {
    options.threads = threads;
    CHECK(fail(open(options), WANRT_USAGE_ERROR, error) ==
          "threads is " + std::to_string(threads) + ", at most 1024 are taken");
  }
  options = {};
  options.device_id = -1;
  CHECK(open(options) == WANRT_USAGE_ERROR);
  options = {};
  options.mapped = 2;
  CHECK(fail(open(options), WANRT_USAGE_ERROR, error) == "mapped is 2, neither 0 nor 1");
  options = {};
  options.no_graph = -1;
  CHECK(fail(open(options), WANRT_USAGE_ERROR, error) == "no_graph is -1, neither 0 nor 1");
  options = {};
  options.workload = "";
  CHECK(fail(open(options), WANRT_USAGE_ERROR, error) == "workload is an empty string");
  options = {};
  options.device = static_cast<wanrt_device>(9);
  CHECK(open(options) == WANRT_USAGE_ERROR);
  options = {};
  options.workload = "9x9x9";
  CHECK(fail(open(options), WANRT_ENGINE_ERROR, error).find("has no workload '9x9x9'") !=
        std::string::npos);
  CHECK(std::string(error.hint) == "it has: 64x32x1");
}

TEST_CASE("a manifest tells what the engine is") {
  const tiny::Folder folder;
  const wanrt::Manifest manifest(folder.path());
  const wanrt_info info = manifest.info();
  CHECK(std::string(info.name) == "tiny");
  CHECK(std::string(info.mode) == "swappable");
  CHECK(std::string(info.dtype) == "fp32");
  CHECK(std::string(info.backend) == "onnxruntime");
  CHECK(info.rank == 0);
  CHECK(info.max_rank == 2);
  CHECK(info.random_weights == 1);
  CHECK(info.full_finetune == 0);
  CHECK(info.weight_bytes == 24);
  CHECK(info.workloads == 1);
  CHECK(info.adapter_inputs == 2);
  const wanrt_workload workload = manifest.workload();
  CHECK(std::string(workload.name) == "64x32x1");
  CHECK(workload.tokens == 2);
  const auto inputs = manifest.inputs();
  REQUIRE(inputs.size() == 2);
  CHECK(std::string(inputs[0].name) == "x");
  CHECK(inputs[0].bytes == 24);
  CHECK(inputs[0].low == inputs[0].high);
  CHECK(inputs[1].high == 1000);
  CHECK(manifest.outputs()[0].shape[1] == 3);
  CHECK(std::string(manifest.adapter_inputs()[1].name) == tiny::kLoraB);
  CHECK(tiny::Json::parse(manifest.json())["name"] == "tiny");
  CHECK_THROWS_WITH_AS(static_cast<void>(manifest.workload(1)), "there is no workload 1 of 1",
                       wanrt::Error);
  CHECK_THROWS_AS(static_cast<void>(manifest.inputs("9x9x9")), wanrt::Error);
}

TEST_CASE("workloads keep the manifest's order and give symbols their sizes") {
  const tiny::Folder folder([](tiny::Json& m) {
    auto& graph = m["graphs"]["forward"];
    graph["inputs"][0]["shape"] = {"rows", 3};
    graph["outputs"][0]["shape"] = {"rows", "columns"};
  });
  std::string text = wanrt::Manifest(folder.path()).json();
  const std::string one = tiny::Json::parse(text)["workloads"]["64x32x1"].dump();
  const std::string two =
      "\"a\": {\"width\": 1, \"height\": 1, \"frames\": 1, \"batch\": 1, "
      "\"tokens\": 1, \"shapes\": {}, \"flops\": {}, \"bytes\": {}, \"activation_bytes\": 0}";
  const std::size_t at = text.find(one) + one.size();
  folder.write("engine.json", text.insert(at, ", " + two));
  const wanrt::Manifest manifest(folder.path());
  CHECK(std::string(manifest.workload(0).name) == "64x32x1");
  CHECK(std::string(manifest.workload(1).name) == "a");
  CHECK(manifest.inputs("64x32x1")[0].shape[0] == 2);
  CHECK(manifest.inputs("a")[0].shape[0] == -1);
  CHECK(manifest.inputs("a")[0].bytes == 0);
  CHECK(manifest.outputs()[0].shape[0] == 2);
  CHECK(manifest.outputs()[0].shape[1] == -1);
}

TEST_CASE("versions") {
  CHECK(wanrt_abi_version() == WANRT_ABI_VERSION);
  CHECK(std::string(wanrt_version()) == WANRT_VERSION);
  CHECK(std::string(wanrt_backends()) == "stub");
}
