#include "sampler.h"

#include "values.h"

namespace {

std::vector<float> values_of(const wanrt::Tensor& tensor) {
  const auto values = tensor.values<float>();
  return {values.begin(), values.end()};
}

}  // namespace

Sampler::Sampler(const VideoFile& video)
    : video_(video), sample_(values_of(video.get("latents"))) {}

void Sampler::advance(const std::vector<float>& positive, const std::vector<float>& negative) {
  const std::size_t step = returned_.size();
  std::vector<float> value = positive;
  if (video_.guided()) {
    const float scale = video_.get("guidance").values<float>()[step];
    for (std::size_t k = 0; k < value.size(); ++k) {
      value[k] = negative[k] + (scale * (positive[k] - negative[k]));
    }
  }
  returned_.push_back(std::move(value));
  const float* row =
      video_.get("coefficients").values<float>().data() + (step * (video_.steps() + 1));
  const auto first = video_.get("latents").values<float>();
  for (std::size_t k = 0; k < sample_.size(); ++k) {
    sample_[k] = row[0] * first[k];
  }
  for (std::size_t j = 0; j <= step; ++j) {
    for (std::size_t k = 0; k < sample_.size(); ++k) {
      sample_[k] += row[j + 1] * returned_[j][k];
    }
  }
}
