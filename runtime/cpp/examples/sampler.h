// A sampler's arithmetic: every step is linear in the first sample and in what the model returned.
#pragma once

#include <cstddef>
#include <vector>

#include "video_file.h"

// The samples x_0 .. x_S of a video, one after another, in fp32.
class Sampler {
 public:
  explicit Sampler(const VideoFile& video);

  [[nodiscard]] const std::vector<float>& sample() const noexcept { return sample_; }

  // Go on to the next sample with what the model returned for this step, for both prompts if the
  // video is guided.
  void advance(const std::vector<float>& positive, const std::vector<float>& negative);

 private:
  const VideoFile& video_;
  std::vector<std::vector<float>> returned_;  // v_0 .. v_i, guided
  std::vector<float> sample_;
};
