// The file of a video: what is computed before the first step and for all of them.
// docs/video-file.md has its format.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <string>
#include <vector>
#include <wanrt/wanrt.hpp>

// A video's file in memory. What is wrong with one is thrown as std::runtime_error, which names it.
class VideoFile {
 public:
  explicit VideoFile(const std::string& path);

  [[nodiscard]] std::size_t steps() const noexcept { return steps_; }
  [[nodiscard]] bool guided() const noexcept { return guided_; }

  // Steps of the high-noise expert, which come first; all of them without a pair.
  [[nodiscard]] std::size_t high_steps() const noexcept { return high_steps_; }
  [[nodiscard]] bool is_pair() const noexcept { return is_pair_; }

  // A tensor of the file's own; `condition` is null where a video has no image.
  [[nodiscard]] const wanrt::Tensor& get(const std::string& name) const;
  [[nodiscard]] const wanrt::Tensor* condition() const;

  // A model's inputs for one of the prompts, `positive` or `negative`, except the two that a step
  // gives: hidden_states and timestep. Throws if the engine is of another model, dtype or size, or
  // takes other inputs than the file has.
  [[nodiscard]] std::vector<wanrt::Tensor> inputs(const wanrt::ManifestView& manifest,
                                                  const std::string& prompt) const;

  // The engine's workload of the video's size, by its name.
  [[nodiscard]] std::string workload(const wanrt::ManifestView& manifest) const;

 private:
  [[noreturn]] void refuse(const std::string& why) const;
  [[nodiscard]] std::string metadata(const std::string& key) const;
  void read_sizes();
  void read_experts();
  void check_model(const wanrt::ManifestView& manifest) const;

  std::string path_;
  wanrt::Tensors file_;
  std::map<std::string, wanrt::Tensor> tensors_;
  std::size_t steps_ = 0, high_steps_ = 0;
  bool guided_ = false, is_pair_ = false;
};

// Write a video's latents, fp32, where they appear whole or not at all. Throws std::system_error.
void write_latents(const std::string& path, const wanrt::Tensor& shaped_like,
                   const std::vector<float>& latents);
