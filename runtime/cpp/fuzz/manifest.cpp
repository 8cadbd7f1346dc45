// Any bytes as engine.json: a manifest, or an Error.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "error.h"
#include "manifest/manifest.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  try {
    wanrt::impl::parse_manifest({reinterpret_cast<const char*>(data), size}, "engine.json");
  } catch (const wanrt::impl::Error&) {
    return 0;
  }
  return 0;
}
