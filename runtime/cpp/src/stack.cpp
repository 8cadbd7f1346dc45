#include "stack.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>
#include <utility>

#include "error.h"

namespace wanrt::impl {

namespace {

[[noreturn]] void refuse(const std::string& message, const std::string& hint = "") {
  throw Error(WANRT_ADAPTER_ERROR, message, hint);
}

std::string show(double number, const char* format = "%g") {
  if (std::isnan(number)) {
    return "nan";
  }
  std::array<char, 32> text{};
  // NOLINTNEXTLINE(cppcoreguidelines-pro-type-vararg): floats have no other way into text of C++17
  std::snprintf(text.data(), text.size(), format, number);
  return text.data();
}

std::string counted(std::size_t count, const char* noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

double half_to_double(std::uint32_t bits) {
  const int exponent = static_cast<int>(bits >> 10U);
  const auto fraction = static_cast<double>(bits & 0x3FFU);
  return exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(fraction + 1024, exponent - 25);
}

// Floats of one sign are ordered as their bits are.
template <typename Bits>
std::uint32_t largest_bits(const Buffer& values) {
  constexpr auto kSign = static_cast<Bits>(Bits{1} << ((8 * sizeof(Bits)) - 1));
  Bits largest = 0;
  for (std::size_t at = 0; at + sizeof(Bits) <= values.size(); at += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, values.data() + at, sizeof(Bits));
    largest = std::max(largest, static_cast<Bits>(bits & static_cast<Bits>(~kSign)));
  }
  return largest;
}

double largest_value(wanrt_dtype dtype, const Buffer& values) {
  if (dtype == WANRT_FP16) {
    return half_to_double(largest_bits<std::uint16_t>(values));
  }
  const std::uint32_t bits = dtype == WANRT_FP32 ? largest_bits<std::uint32_t>(values)
                                                 : largest_bits<std::uint16_t>(values) << 16U;
  float value = 0;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

struct Limits {
  double largest = 0;  // of A
  double limit = std::numeric_limits<double>::infinity();
};

Limits measure(const Stacked& one) {
  Limits limits;
  for (const auto& [name, matrix] : one.matrices) {
    limits.limit = one.dtype == WANRT_FP16 ? 65504.0 : std::ldexp(1.0, 64);
    if (name.back() == 'A') {
      limits.largest = std::max(limits.largest, largest_value(one.dtype, matrix.data));
    }
  }
  return limits;
}

bool is_down(const TensorSpec& spec) { return spec.role == Role::lora_a; }

std::int64_t count_slots(const std::vector<const TensorSpec*>& inputs) {
  std::int64_t slots = 0;
  bool found = false;
  for (const TensorSpec* spec : inputs) {
    if (is_down(*spec)) {
      const std::int64_t rows = resolve_shape(spec->shape, {})[0];
      slots = found ? std::min(slots, rows) : rows;
      found = true;
    }
  }
  return slots;
}

std::int64_t rank_of(const Adapter& matrices, const std::vector<const TensorSpec*>& inputs) {
  std::int64_t rank = 0;
  for (const TensorSpec* spec : inputs) {
    const auto found = matrices.find(spec->name);
    if (found != matrices.end() && is_down(*spec)) {
      rank = std::max(rank, found->second.rows);
    }
  }
  return rank;
}

void check_ranks(const Stack& stack, std::int64_t slots) {
  std::string ranks;
  std::int64_t sum = 0;
  for (const Stacked& one : stack) {
    ranks += (ranks.empty() ? "" : " + ") + std::to_string(one.rank);
    sum += one.rank;
  }
  if (sum > slots) {
    const std::string total = std::to_string(sum);
    refuse("ranks " + ranks + " = " + total + ", the engine takes up to " + std::to_string(slots),
           "build it with --max-rank " + total + ", or load fewer adapters");
  }
}

void write_strengths(const Stack& stack, const View& view) {
  auto* values = static_cast<float*>(view.data);
  std::fill_n(values, view.shape[0], 0.0F);
  for (const Stacked& one : stack) {
    values = std::fill_n(values, one.rank, one.strength);
  }
}

// Rows of A, one adapter's below the other's.
void write_down(const Stack& stack, const std::string& name, const View& view) {
  auto* row = static_cast<std::byte*>(view.data);
  std::memset(row, 0, view.bytes);
  const std::size_t width = static_cast<std::size_t>(view.shape[1]) * dtype_bytes(view.dtype);
  for (const Stacked& one : stack) {
    const auto found = one.matrices.find(name);
    if (found != one.matrices.end()) {
      std::memcpy(row, found->second.data.data(), found->second.data.size());
    }
    row += static_cast<std::size_t>(one.rank) * width;
  }
}

// Columns of B, one adapter's beside the other's.
void write_up(const Stack& stack, const std::string& name, const View& view) {
  std::memset(view.data, 0, view.bytes);
  const std::size_t element = dtype_bytes(view.dtype);
  const std::size_t width = static_cast<std::size_t>(view.shape[1]) * element;
  std::size_t before = 0;
  for (const Stacked& one : stack) {
    const auto found = one.matrices.find(name);
    if (found != one.matrices.end()) {
      const std::size_t used = static_cast<std::size_t>(found->second.columns) * element;
      const std::byte* from = found->second.data.data();
      auto* to = static_cast<std::byte*>(view.data) + before;
      for (std::int64_t i = 0; i < found->second.rows; ++i, to += width, from += used) {
        std::memcpy(to, from, used);
      }
    }
    before += static_cast<std::size_t>(one.rank) * element;
  }
}

Matrix concatenate(const std::vector<std::pair<const Matrix*, float>>& parts, bool down) {
  Matrix whole;
  for (const auto& [part, strength] : parts) {
    whole.rows = down ? whole.rows + part->rows : part->rows;
    whole.columns = down ? part->columns : whole.columns + part->columns;
  }
  whole.data = Buffer(static_cast<std::size_t>(whole.rows * whole.columns) * sizeof(float));
  auto* const to = reinterpret_cast<float*>(whole.data.data());
  std::int64_t row = 0;
  std::int64_t column = 0;
  for (const auto& [part, strength] : parts) {
    const auto* from = reinterpret_cast<const float*>(part->data.data());
    for (std::int64_t i = 0; i < part->rows; ++i) {
      for (std::int64_t j = 0; j < part->columns; ++j, ++from) {
        to[((row + i) * whole.columns) + column + j] = *from * (down ? 1 : strength);
      }
    }
    row += down ? part->rows : 0;
    column += down ? 0 : part->columns;
  }
  return whole;
}

}  // namespace

Stack read_stack(const std::vector<wanrt_adapter>& adapters, const Folder& folder,
                 std::set<FileIdentity>& checked) {
  const auto inputs = folder.manifest.adapter_inputs();
  Stack stack;
  std::vector<float> strengths;
  for (const wanrt_adapter& adapter : adapters) {
    Stacked one;
    one.path = adapter.path;
    one.matrices = read_adapter(one.path, folder, checked);
    one.rank = rank_of(one.matrices, inputs);
    one.dtype = inputs.front()->dtype;
    stack.push_back(std::move(one));
    strengths.push_back(adapter.strength);
  }
  check_ranks(stack, count_slots(inputs));
  set_strengths(stack, strengths);
  return stack;
}

void set_strengths(Stack& stack, const std::vector<float>& strengths) {
  if (strengths.size() != stack.size()) {
    refuse(counted(strengths.size(), "strength") + " for " + counted(stack.size(), "adapter"),
           "give one for each adapter of the last swap, in its order");
  }
  for (std::size_t i = 0; i < stack.size(); ++i) {
    const float strength = strengths[i];
    if (!std::isfinite(strength)) {
      refuse(stack[i].path + ": strength " + show(strength) + " isn't finite");
    }
    if (std::abs(strength) <= 1) {
      continue;
    }
    const Limits limits = measure(stack[i]);
    if (limits.largest * std::abs(strength) > limits.limit) {
      refuse(stack[i].path + ": strength " + show(strength) + " makes its values overflow",
             "the largest is " + show(limits.limit / limits.largest, "%.3g"));
    }
  }
  for (std::size_t i = 0; i < stack.size(); ++i) {
    stack[i].strength = strengths[i];
  }
}

void write_slots(const Stack& stack, const TensorSpec& spec, const View& view) {
  if (spec.role == Role::strengths) {
    write_strengths(stack, view);
  } else if (is_down(spec)) {
    write_down(stack, spec.name, view);
  } else {
    write_up(stack, spec.name, view);
  }
}

Adapter fold(const Stack& stack, const std::vector<const TensorSpec*>& inputs) {
  Adapter folded;
  for (const TensorSpec* spec : inputs) {
    std::vector<std::pair<const Matrix*, float>> parts;
    for (const Stacked& one : stack) {
      const auto found = one.matrices.find(spec->name);
      if (found != one.matrices.end()) {
        parts.emplace_back(&found->second, one.strength);
      }
    }
    if (!parts.empty()) {
      folded.emplace(spec->name, concatenate(parts, is_down(*spec)));
    }
  }
  return folded;
}

}  // namespace wanrt::impl
