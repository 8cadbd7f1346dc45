// Any bytes as a safetensors header: tensors that fill the file without gaps, or a FormatError.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "error.h"
#include "safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const std::uint64_t data_bytes : {0U, 4U, 1024U}) {
    try {
      const auto header = wanrt::impl::parse_safetensors_header(text, data_bytes);
      std::uint64_t end = 0;
      for (const auto& tensor : header.tensors) {
        if (tensor.begin != end || tensor.end > data_bytes) {
          std::abort();
        }
        end = tensor.end;
      }
    } catch (const wanrt::impl::FormatError&) {
      continue;
    }
  }
  return 0;
}
