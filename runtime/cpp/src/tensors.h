// Dtypes, shapes with symbolic sizes, and memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "wanrt/wanrt.h"

namespace wanrt::impl {

using Shape = std::vector<std::int64_t>;
using Dim = std::variant<std::int64_t, std::string>;
using Symbols = std::map<std::string, std::int64_t>;

// A tensor in somebody's memory.
struct View {
  wanrt_dtype dtype = WANRT_OTHER;
  wanrt_memory memory = WANRT_HOST;
  Shape shape;
  void* data = nullptr;
  std::size_t bytes = 0;
};

// Zeroed host memory that begins at a multiple of 64, as vector code likes it. Inputs at another
// alignment may be summed in another order.
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::size_t bytes);  // throws std::bad_alloc

  [[nodiscard]] std::byte* data() const noexcept { return data_.get(); }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  struct Free {
    void operator()(std::byte* data) const noexcept { std::free(data); }
  };
  std::unique_ptr<std::byte, Free> data_;
  std::size_t size_ = 0;
};

std::size_t dtype_bytes(wanrt_dtype dtype);
const char* dtype_name(wanrt_dtype dtype);

// Whether all values are finite, and at most 2^64 (fp16: any), so that products of two are, too.
bool all_usable(wanrt_dtype dtype, const Buffer& values);

// Bytes of a tensor, or nothing if they don't fit into 63 bits.
std::optional<std::size_t> tensor_bytes(const Shape& shape, std::size_t element_bytes);

// `[1, 36, F=3]`: a shape as errors print it.
std::string show_shape(const Shape& shape);
std::string show_shape(const std::vector<Dim>& shape, const Symbols& symbols = {});

// Whether a shape fits a specification; symbolic sizes are added to `symbols`.
bool match_shape(const std::vector<Dim>& spec, const Shape& shape, Symbols& symbols);

// A specification's shape with its symbols replaced, -1 for those that aren't known.
Shape resolve_shape(const std::vector<Dim>& spec, const Symbols& symbols);
bool is_known(const Shape& shape);

}  // namespace wanrt::impl
