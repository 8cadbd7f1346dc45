// safetensors: a bounded reader of headers, and of tensors by name.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "file.h"
#include "tensors.h"

namespace wanrt::impl {

struct StoredTensor {
  std::string name;
  std::string dtype;  // the file's word: F32, BF16, I64 ...
  Shape shape;
  std::uint64_t begin = 0, end = 0;  // in the bytes behind the header
};

struct SafetensorsHeader {
  std::map<std::string, std::string> metadata;
  std::vector<StoredTensor> tensors;  // in the order of their bytes
};

// Parse a header whose tensors must fill `data_bytes` without gaps. Throws FormatError.
SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes);

// A file whose header has been read. Throws FormatError or std::system_error.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(const std::string& path);

  [[nodiscard]] const File& file() const noexcept { return file_; }
  [[nodiscard]] const SafetensorsHeader& header() const noexcept { return header_; }
  void read(const StoredTensor& tensor, void* to) const;

 private:
  File file_;
  std::uint64_t data_begin_ = 0;
  SafetensorsHeader header_;
};

// The engines' dtype of a file's word, WANRT_OTHER if there is none.
wanrt_dtype engine_dtype(std::string_view stored);

}  // namespace wanrt::impl
