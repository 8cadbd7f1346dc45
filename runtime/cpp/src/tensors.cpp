#include "tensors.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <new>

namespace wanrt::impl {

namespace {

constexpr std::size_t kAlignment = 64;

std::string join(const std::vector<std::string>& sizes) {
  std::string text = "[";
  for (const std::string& size : sizes) {
    text += (text.size() > 1 ? ", " : "") + size;
  }
  return text + "]";
}

// Floats are ordered as their bits are, the sign apart.
template <typename Word>
bool any_beyond(const Buffer& values, Word limit) {
  constexpr auto kMagnitude = static_cast<Word>(static_cast<Word>(~Word{0}) >> 1U);
  bool found = false;
  for (std::size_t at = 0; at + sizeof(Word) <= values.size(); at += sizeof(Word)) {
    Word word = 0;
    std::memcpy(&word, values.data() + at, sizeof word);
    found |= static_cast<Word>(word & kMagnitude) > limit;  // without a branch: vectors of words
  }
  return found;
}

}  // namespace

Buffer::Buffer(std::size_t bytes) : size_(bytes) {
  if (bytes > std::numeric_limits<std::size_t>::max() - kAlignment) {
    throw std::bad_alloc();
  }
  const std::size_t whole = std::max((bytes + kAlignment - 1) / kAlignment, std::size_t{1});
  data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, whole * kAlignment)));
  if (!data_) {
    throw std::bad_alloc();
  }
  std::memset(data_.get(), 0, bytes);
}

std::size_t dtype_bytes(wanrt_dtype dtype) { return dtype == WANRT_FP32 ? 4 : 2; }

const char* dtype_name(wanrt_dtype dtype) {
  switch (dtype) {
    case WANRT_FP32:
      return "fp32";
    case WANRT_FP16:
      return "fp16";
    case WANRT_BF16:
      return "bf16";
    case WANRT_OTHER:
      break;
  }
  return "of another dtype";
}

bool all_usable(wanrt_dtype dtype, const Buffer& values) {
  if (dtype == WANRT_FP32) {
    return !any_beyond<std::uint32_t>(values, 0x5F800000U);
  }
  return !any_beyond<std::uint16_t>(values, dtype == WANRT_FP16 ? 0x7BFFU : 0x5F80U);
}

std::optional<std::size_t> tensor_bytes(const Shape& shape, std::size_t element_bytes) {
  constexpr auto kMost = static_cast<std::size_t>(std::numeric_limits<std::int64_t>::max());
  if (std::find(shape.begin(), shape.end(), 0) != shape.end()) {
    return 0;
  }
  std::size_t bytes = element_bytes;
  for (const std::int64_t size : shape) {
    const auto factor = static_cast<std::size_t>(size);
    if (size < 0 || bytes > kMost / factor) {
      return std::nullopt;
    }
    bytes *= factor;
  }
  return bytes;
}

std::string show_shape(const Shape& shape) {
  std::vector<std::string> sizes;
  std::transform(shape.begin(), shape.end(), std::back_inserter(sizes),
                 [](std::int64_t size) { return std::to_string(size); });
  return join(sizes);
}

std::string show_shape(const std::vector<Dim>& shape, const Symbols& symbols) {
  std::vector<std::string> sizes;
  for (const Dim& dim : shape) {
    if (const auto* size = std::get_if<std::int64_t>(&dim)) {
      sizes.push_back(std::to_string(*size));
    } else {
      const auto& symbol = std::get<std::string>(dim);
      const auto known = symbols.find(symbol);
      sizes.push_back(known == symbols.end() ? symbol
                                             : symbol + "=" + std::to_string(known->second));
    }
  }
  return join(sizes);
}

bool match_shape(const std::vector<Dim>& spec, const Shape& shape, Symbols& symbols) {
  bool fits = spec.size() == shape.size();
  for (std::size_t i = 0; i < std::min(spec.size(), shape.size()); ++i) {
    const auto* symbol = std::get_if<std::string>(&spec[i]);
    const std::int64_t want = symbol != nullptr ? symbols.emplace(*symbol, shape[i]).first->second
                                                : std::get<std::int64_t>(spec[i]);
    fits = fits && want == shape[i];
  }
  return fits;
}

Shape resolve_shape(const std::vector<Dim>& spec, const Symbols& symbols) {
  Shape shape;
  for (const Dim& dim : spec) {
    if (const auto* size = std::get_if<std::int64_t>(&dim)) {
      shape.push_back(*size);
    } else {
      const auto known = symbols.find(std::get<std::string>(dim));
      shape.push_back(known == symbols.end() ? -1 : known->second);
    }
  }
  return shape;
}

bool is_known(const Shape& shape) {
  return std::find(shape.begin(), shape.end(), -1) == shape.end();
}

}  // namespace wanrt::impl
