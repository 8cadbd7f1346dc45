// A small engine folder: x [2, 3] and timestep [1] in, y out; swappable at up to rank 2.
#pragma once

#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>
#include <wanrt/wanrt.hpp>

namespace tiny {

using Json = nlohmann::json;

inline constexpr const char* kLoraA = "to_q.lora_A";    // [2, 3]
inline constexpr const char* kLoraB = "to_q.lora_B";    // [3, 2]
inline constexpr const char* kStrengths = "strengths";  // [2]

// A folder that is removed with this object.
class Folder {
 public:
  // `change` alters engine.json, a swappable engine's, before it is written.
  explicit Folder(const std::function<void(Json&)>& change = [](Json&) {});
  ~Folder();
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  Folder(Folder&& other) noexcept : root_(std::exchange(other.root_, {})) {}
  Folder& operator=(Folder&&) = delete;

  [[nodiscard]] std::string path() const { return (root_ / "engine").string(); }
  [[nodiscard]] std::string file(const std::string& name) const { return path() + "/" + name; }
  [[nodiscard]] std::string weights() const { return file("weights/w.safetensors"); }

  // A file beside the engine, or in it.
  std::string write(const std::string& name, const std::string& content) const;

 private:
  std::filesystem::path root_;
};

struct Stored {
  std::string name;
  std::vector<std::int64_t> shape;
  std::vector<float> values;
};

// A safetensors file's bytes.
std::string safetensors(const std::string& header, const std::string& data = "");
std::string safetensors(const std::vector<Stored>& tensors, const Json& metadata);

// A canonical adapter's bytes; `metadata` alters what marks it as one.
std::string adapter(const std::vector<Stored>& tensors, const Json& metadata = Json::object());

// An fp32 input or output over `values`.
wanrt::Tensor tensor(const char* name, const std::vector<std::int64_t>& shape,
                     std::vector<float>& values);

}  // namespace tiny
