#include "values.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

namespace {

std::uint32_t bits_of(float value) {
  std::uint32_t bits = 0;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

// Rounded to nearest, ties to even, as all conversions here.
std::uint16_t to_fp16(float value) {
  const std::uint32_t bits = bits_of(value);
  const std::uint32_t sign = bits >> 16U & 0x8000U;
  const std::uint32_t size = bits & 0x7FFFFFFFU;
  std::uint32_t half = 0;
  if (size > 0x7F800000U) {
    half = 0x7E00U;  // NaN
  } else if (size >= 0x477FF000U) {
    half = 0x7C00U;                 // 65520 and more
  } else if (size < 0x38800000U) {  // below the smallest normal number: in units of 2^-24
    half = static_cast<std::uint32_t>(std::nearbyint(std::ldexp(std::abs(value), 24)));
  } else {
    half = (size - 0x38000000U + 0xFFFU + (size >> 13U & 1U)) >> 13U;
  }
  return static_cast<std::uint16_t>(sign | half);
}

std::uint16_t to_bf16(float value) {
  const std::uint32_t bits = bits_of(value);
  if (std::isnan(value)) {
    return static_cast<std::uint16_t>(bits >> 16U | 0x40U);
  }
  return static_cast<std::uint16_t>((bits + 0x7FFFU + (bits >> 16U & 1U)) >> 16U);
}

float from_fp16(std::uint16_t half) {
  const std::uint32_t word = half;
  const auto exponent = static_cast<int>(word >> 10U & 0x1FU);
  const auto fraction = static_cast<int>(word & 0x3FFU);
  double value = std::ldexp(exponent > 0 ? 1024 + fraction : fraction, std::max(exponent, 1) - 25);
  if (exponent == 0x1F) {
    value = fraction > 0 ? std::numeric_limits<double>::quiet_NaN()
                         : std::numeric_limits<double>::infinity();
  }
  return static_cast<float>((word & 0x8000U) != 0 ? -value : value);
}

bool same_kind(const wanrt::Tensor& a, const wanrt::Tensor& b) {
  const auto sizes = a.sizes();
  const auto others = b.sizes();
  return a.dtype == b.dtype && a.dtype != WANRT_OTHER && a.bytes == b.bytes &&
         std::equal(sizes.begin(), sizes.end(), others.begin(), others.end());
}

}  // namespace

void store(const wanrt::Tensor& tensor, std::size_t index, float value) {
  if (tensor.dtype == WANRT_FP32) {
    tensor.values<float>()[index] = value;
  } else {
    tensor.values<std::uint16_t>()[index] =
        tensor.dtype == WANRT_FP16 ? to_fp16(value) : to_bf16(value);
  }
}

float load(const wanrt::Tensor& tensor, std::size_t index) {
  if (tensor.dtype == WANRT_FP32) {
    return tensor.values<float>()[index];
  }
  const std::uint16_t word = tensor.values<std::uint16_t>()[index];
  if (tensor.dtype == WANRT_FP16) {
    return from_fp16(word);
  }
  const std::uint32_t bits = static_cast<std::uint32_t>(word) << 16U;
  float value = 0;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

std::size_t count_values(const wanrt::Tensor& tensor) {
  return tensor.bytes / (tensor.dtype == WANRT_FP32 ? 4 : 2);
}

void fill_random(const wanrt::Tensor& tensor, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  const bool ranged = tensor.low != tensor.high;
  std::uniform_real_distribution<double> values(ranged ? tensor.low : -1, ranged ? tensor.high : 1);
  for (std::size_t i = 0; i < count_values(tensor); ++i) {
    store(tensor, i, static_cast<float>(values(random)));
  }
}

bool is_finite(const wanrt::Tensor& tensor) {
  for (std::size_t i = 0; tensor.dtype != WANRT_OTHER && i < count_values(tensor); ++i) {
    if (!std::isfinite(load(tensor, i))) {
      return false;
    }
  }
  return true;
}

bool equal_bits(const wanrt::Tensor& a, const wanrt::Tensor& b) {
  return same_kind(a, b) && (a.bytes == 0 || std::memcmp(a.data, b.data, a.bytes) == 0);
}

double distance(const wanrt::Tensor& a, const wanrt::Tensor& b) {
  if (!same_kind(a, b)) {
    return std::numeric_limits<double>::infinity();
  }
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < count_values(a); ++i) {
    const double value = load(b, i);
    difference += std::pow(load(a, i) - value, 2);
    norm += value * value;
  }
  const double relative = difference > 0 ? std::sqrt(difference / norm) : difference;
  return std::isnan(relative) ? std::numeric_limits<double>::infinity() : relative;
}
