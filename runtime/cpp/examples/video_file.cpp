#include "video_file.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <regex>
#include <stdexcept>
#include <system_error>

namespace {

const std::array<const char*, 5> kOwn = {"latents", "timesteps", "coefficients", "condition",
                                         "guidance"};

bool same_shape(const wanrt::Tensor& a, const wanrt::Tensor& b) {
  const auto sizes = a.sizes();
  const auto others = b.sizes();
  return sizes.size() == others.size() && std::equal(sizes.begin(), sizes.end(), others.begin());
}

bool has_shape(const wanrt::Tensor& tensor, const std::vector<std::size_t>& shape) {
  const auto sizes = tensor.sizes();
  return tensor.dtype == WANRT_FP32 && sizes.size() == shape.size() &&
         std::equal(sizes.begin(), sizes.end(), shape.begin(), [](std::int64_t a, std::size_t b) {
           return a == static_cast<std::int64_t>(b);
         });
}

void write_file(const std::string& path, const std::string& header,
                const std::vector<float>& values) {
  const std::uint64_t length = header.size();
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&length), sizeof length);
  file.write(header.data(), static_cast<std::streamsize>(length));
  file.write(reinterpret_cast<const char*>(values.data()),
             static_cast<std::streamsize>(values.size() * sizeof(float)));
  file.close();
  if (!file) {
    throw std::system_error(errno, std::generic_category(), path + " can't be written");
  }
}

}  // namespace

VideoFile::VideoFile(const std::string& path) : path_(path), file_(path) {
  for (const wanrt::Tensor& tensor : file_.all()) {
    tensors_[tensor.name] = tensor;
  }
  if (metadata("format") != "wanexport-video") {
    refuse("it isn't a video's file");
  }
  if (metadata("version") != "1") {
    refuse("it has version " + metadata("version") + ", this host reads version 1");
  }
  read_sizes();
  read_experts();
}

void VideoFile::read_sizes() {
  const wanrt::Tensor& latents = get("latents");
  if (latents.dtype != WANRT_FP32 || latents.rank != 5) {
    refuse("latents aren't fp32 [B, C, F, H, W]");
  }
  const wanrt::Tensor& timesteps = get("timesteps");
  steps_ = timesteps.bytes / sizeof(float);
  if (steps_ == 0 || !has_shape(timesteps, {steps_})) {
    refuse("timesteps aren't fp32 [S]");
  }
  if (!has_shape(get("coefficients"), {steps_, steps_ + 1})) {
    refuse("coefficients aren't fp32 [S, S + 1]");
  }
  guided_ = tensors_.count("guidance") > 0;
  if (guided_ && !has_shape(get("guidance"), {steps_})) {
    refuse("guidance isn't fp32 [S]");
  }
}

void VideoFile::read_experts() {
  high_steps_ = steps_;
  const std::string experts = file_.metadata("experts").value_or("");
  is_pair_ = !experts.empty();
  if (is_pair_) {
    const std::regex form("high:([0-9]{1,6}),low:([0-9]{1,6})");
    std::smatch found;
    if (!std::regex_match(experts, found, form) ||
        std::stoul(found[1]) + std::stoul(found[2]) != steps_) {
      refuse("its experts are '" + experts + "'");
    }
    high_steps_ = std::stoul(found[1]);
  }
}

const wanrt::Tensor& VideoFile::get(const std::string& name) const {
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) {
    refuse(name + " is missing");
  }
  return found->second;
}

const wanrt::Tensor* VideoFile::condition() const {
  const auto found = tensors_.find("condition");
  return found == tensors_.end() ? nullptr : &found->second;
}

std::vector<wanrt::Tensor> VideoFile::inputs(const wanrt::ManifestView& manifest,
                                             const std::string& prompt) const {
  check_model(manifest);
  const std::string workload = this->workload(manifest);
  std::vector<wanrt::Tensor> found;
  std::vector<std::string> known(kOwn.begin(), kOwn.end());
  for (const wanrt::Tensor& input : manifest.inputs(workload.c_str())) {
    const std::string name = input.name;
    if (name == "hidden_states" || name == "timestep") {
      continue;
    }
    const std::string own = std::string(prompt).append(".").append(name);
    wanrt::Tensor given = get(tensors_.count(own) > 0 ? own : name);
    if (given.dtype != input.dtype || !same_shape(given, input)) {
      refuse(std::string(given.name) + " hasn't the dtype and shape of the engine's input");
    }
    given.name = input.name;
    found.push_back(given);
    known.insert(known.end(), {name, "positive." + name});
    if (guided_) {
      known.push_back("negative." + name);
    }
  }
  for (const auto& [name, tensor] : tensors_) {
    if (std::find(known.begin(), known.end(), name) == known.end()) {
      refuse(name + " isn't an input of the engine");
    }
  }
  return found;
}

std::string VideoFile::workload(const wanrt::ManifestView& manifest) const {
  const std::array<std::string, 4> asked = {metadata("width"), metadata("height"),
                                            metadata("frames"), metadata("batch")};
  std::string sizes;
  for (std::size_t i = 0; i < manifest.info().workloads; ++i) {
    const wanrt_workload one = manifest.workload(i);
    if (asked == std::array{std::to_string(one.width), std::to_string(one.height),
                            std::to_string(one.frames), std::to_string(one.batch)}) {
      return one.name;
    }
    sizes += i > 0 ? ", " : "";
    sizes += one.name;
  }
  refuse("the engine has no " + asked[0] + "x" + asked[1] + "x" + asked[2] + " with batch " +
         asked[3] + "; it has " + sizes);
}

void VideoFile::check_model(const wanrt::ManifestView& manifest) const {
  const wanrt_info info = manifest.info();
  if (metadata("dtype") != info.dtype) {
    refuse("it is for a " + metadata("dtype") + " engine, " + info.name + " is " + info.dtype);
  }
  const auto own = nlohmann::json::parse(metadata("compared_by"), nullptr, false);
  if (!own.is_object()) {
    refuse("its compared_by isn't a JSON object");
  }
  const auto engine = nlohmann::json::parse(manifest.json()).at("compared_by");
  for (const char* key : {"model", "prefuse"}) {  // quantised or split, a model is the same
    if (own.value(key, nlohmann::json()) != engine.at(key)) {
      refuse("it is for an engine of " + std::string(key) + " " +
             own.value(key, nlohmann::json()).dump() + ", " + info.name + " is of " +
             engine.at(key).dump());
    }
  }
}

void VideoFile::refuse(const std::string& why) const {
  throw std::runtime_error(path_ + ": " + why);
}

std::string VideoFile::metadata(const std::string& key) const {
  const auto text = file_.metadata(key);
  if (!text) {
    refuse("it isn't a video's file: its metadata have no " + key);
  }
  return *text;
}

void write_latents(const std::string& path, const wanrt::Tensor& shaped_like,
                   const std::vector<float>& latents) {
  const std::size_t bytes = latents.size() * sizeof(float);
  nlohmann::json header;
  header["__metadata__"] = {{"format", "wanexport-latents"}, {"version", "1"}};
  header["latents"] = {{"dtype", "F32"}, {"data_offsets", {std::size_t{0}, bytes}}};
  for (const std::int64_t size : shaped_like.sizes()) {
    header["latents"]["shape"].push_back(size);
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::string draft = path + ".part";
  try {
    write_file(draft, text, latents);
    std::filesystem::rename(draft, path);
  } catch (...) {
    std::error_code ignored;
    std::filesystem::remove(draft, ignored);
    throw;
  }
}
