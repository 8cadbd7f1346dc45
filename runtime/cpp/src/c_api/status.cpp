#include "c_api/status.h"

#include <algorithm>
#include <cstring>

namespace wanrt::impl {

namespace {

// Copy as much as fits in one line, without cutting a UTF-8 character in two.
template <std::size_t N>
void copy_text(char (&to)[N], const char* from) noexcept {
  std::size_t length = std::min(std::strlen(from), N - 1);
  while (from[length] != '\0' && length > 0 &&
         (static_cast<unsigned char>(from[length]) & 0xC0U) == 0x80U) {
    --length;
  }
  std::transform(from, from + length, to, [](char letter) {
    const auto code = static_cast<unsigned char>(letter);
    return code < 0x20 || code == 0x7F ? ' ' : letter;
  });
  to[length] = '\0';
}

}  // namespace

wanrt_status report(wanrt_error* error, wanrt_status status, const char* message,
                    const char* hint) noexcept {
  if (error != nullptr) {
    copy_text(error->message, message);
    copy_text(error->hint, hint);
  }
  return status;
}

void refuse_usage(const std::string& message, const std::string& hint) {
  throw Error(WANRT_USAGE_ERROR, message, hint);
}

void require_index(std::size_t index, std::size_t count, const char* kind) {
  if (index >= count) {
    refuse_usage(std::string("there is no ") + kind + " " + std::to_string(index) + " of " +
                 std::to_string(count));
  }
}

std::string require_text(const char* text, const char* name) {
  require(text, name);
  if (*text == '\0') {
    refuse_usage(std::string(name) + " is an empty string");
  }
  return text;
}

}  // namespace wanrt::impl
