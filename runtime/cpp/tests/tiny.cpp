#include "tiny.h"

#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <fstream>
#include <stdexcept>

namespace tiny {

namespace {

namespace fs = std::filesystem;

const std::string kHash(64, '0');
constexpr const char* kOnnx = "onnx";
constexpr const char* kOnnxHash =
    "87e93f89f2be0db364e8be052f79f389e6c2da239831922e24513288af522a43";

Json manifest(std::int64_t weight_bytes, std::int64_t mtime_ns) {
  const Json file = {{"bytes", 4}, {"sha256", kOnnxHash}};
  Json graph = {{"file", "model.onnx"}, {"weight_bytes", 24}};
  graph.update(file);
  graph["inputs"] = {
      {{"name", "x"}, {"dtype", "fp32"}, {"shape", {2, 3}}},
      {{"name", "timestep"}, {"dtype", "fp32"}, {"shape", Json::array({1})}, {"range", {0, 1000}}},
      {{"name", kLoraA},
       {"dtype", "fp32"},
       {"shape", {2, 3}},
       {"role", "lora_A"},
       {"module", "to_q"}},
      {{"name", kLoraB},
       {"dtype", "fp32"},
       {"shape", {3, 2}},
       {"role", "lora_B"},
       {"module", "to_q"}},
      {{"name", kStrengths},
       {"dtype", "fp32"},
       {"shape", Json::array({2})},
       {"role", "strengths"}}};
  graph["outputs"] = {{{"name", "y"}, {"dtype", "fp32"}, {"shape", {2, 3}}}};
  return {{"schema_version", 1},
          {"name", "tiny"},
          {"model", "tiny"},
          {"mode", "swappable"},
          {"rank", nullptr},
          {"max_rank", 2},
          {"targets", Json::array({"to_q"})},
          {"dtype", "fp32"},
          {"backend", "onnxruntime"},
          {"random_weights", true},
          {"full_finetune", false},
          {"graphs", {{"forward", graph}}},
          {"workloads",
           {{"64x32x1",
             {{"width", 64},
              {"height", 32},
              {"frames", 1},
              {"batch", 1},
              {"tokens", 2},
              {"shapes", {{"x", {2, 3}}, {"timestep", Json::array({1})}}},
              {"flops", {{"linear", 36}}},
              {"bytes", {{"weights", 24}}},
              {"activation_bytes", 0}}}}},
          {"weights",
           {{{"file", "weights/w.safetensors"},
             {"bytes", weight_bytes},
             {"mtime_ns", mtime_ns},
             {"sha256", kHash},
             {"origin", "base"},
             {"storage", "own"}}}},
          {"sources", {{{"path", "base"}, {"sha256", kHash}}}},
          {"config", {{"name", "tiny"}}},
          {"command", {"build", "--config", "tiny.toml"}},
          {"compared_by", {{"model", "tiny"}}},
          {"inputs", {{"base", kHash}}},
          {"tools", {{"wanexport", "0.1.0"}}},
          {"verification", {{"method", "none"}}}};
}

std::int64_t mtime_ns(const std::string& path) {
  struct stat facts = {};
  if (::stat(path.c_str(), &facts) != 0) {
    throw std::runtime_error("no " + path);
  }
  return facts.st_mtim.tv_sec * 1'000'000'000 + facts.st_mtim.tv_nsec;
}

}  // namespace

Folder::Folder(const std::function<void(Json&)>& change) {
  std::string name = (fs::temp_directory_path() / "wanrt-XXXXXX").string();
  if (::mkdtemp(name.data()) == nullptr) {
    throw std::runtime_error("no temporary folder");
  }
  root_ = name;
  write("model.onnx", kOnnx);
  write("weights/w.safetensors", safetensors({{"w", {2, 3}, {1, 2, 3, 4, 5, 6}}}, nullptr));
  const auto bytes = static_cast<std::int64_t>(fs::file_size(weights()));
  Json content = manifest(bytes, mtime_ns(weights()));
  change(content);
  write("engine.json", content.dump());
}

Folder::~Folder() {
  std::error_code ignored;
  fs::remove_all(root_, ignored);
}

std::string Folder::write(const std::string& name, const std::string& content) const {
  fs::create_directories(fs::path(file(name)).parent_path());
  std::ofstream(file(name), std::ios::binary) << content;
  return file(name);
}

std::string safetensors(const std::string& header, const std::string& data) {
  std::string bytes;
  for (std::size_t length = header.size(), i = 0; i < 8; ++i, length >>= 8U) {
    bytes += static_cast<char>(length & 0xFFU);
  }
  return bytes + header + data;
}

std::string safetensors(const std::vector<Stored>& tensors, const Json& metadata) {
  Json header = Json::object();
  if (!metadata.is_null()) {
    header["__metadata__"] = metadata;
  }
  std::string data;
  for (const Stored& tensor : tensors) {
    const std::size_t bytes = tensor.values.size() * sizeof(float);
    header[tensor.name] = {{"dtype", "F32"},
                           {"shape", tensor.shape},
                           {"data_offsets", {data.size(), data.size() + bytes}}};
    data.append(reinterpret_cast<const char*>(tensor.values.data()), bytes);
  }
  return safetensors(header.dump(), data);
}

std::string adapter(const std::vector<Stored>& tensors, const Json& metadata) {
  Json marks = {{"format", "wanexport-adapter"},
                {"version", "1"},
                {"rank", "1"},
                {"source_sha256", kHash},
                {"random_weights", "true"}};
  marks.update(metadata);
  return safetensors(tensors, marks);
}

wanrt::Tensor tensor(const char* name, const std::vector<std::int64_t>& shape,
                     std::vector<float>& values) {
  wanrt::Tensor made;
  made.name = name;
  made.dtype = WANRT_FP32;
  made.rank = shape.size();
  std::copy(shape.begin(), shape.end(), std::begin(made.shape));
  made.data = values.data();
  made.bytes = values.size() * sizeof(float);
  return made;
}

}  // namespace tiny
