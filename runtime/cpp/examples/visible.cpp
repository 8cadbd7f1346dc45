#include "visible.h"

#include <array>
#include <cstddef>
#include <cstdio>

namespace {

unsigned byte_at(const std::string& text, std::size_t index) {
  return index < text.size() ? static_cast<unsigned char>(text[index]) : 0U;
}

// How many bytes from here on are one character that is obeyed; 0 if it is shown. In UTF-8.
std::size_t count_obeyed(const std::string& text, std::size_t index) {
  const unsigned first = byte_at(text, index);
  const unsigned second = byte_at(text, index + 1);
  const unsigned third = byte_at(text, index + 2);
  if (first < 0x20U || first == 0x7FU) {
    return 1;
  }
  if (first == 0xC2U && second >= 0x80U && second < 0xA0U) {  // C1
    return 2;
  }
  const bool marks = second == 0x80U && (third == 0x8EU || third == 0x8FU ||   // U+200E, U+200F
                                         (third >= 0xA8U && third <= 0xAEU));  // U+2028 to U+202E
  const bool isolates = second == 0x81U && third >= 0xA6U && third <= 0xA9U;   // U+2066 to U+2069
  return first == 0xE2U && (marks || isolates) ? 3 : 0;
}

}  // namespace

std::string visible(const std::string& text) {
  std::string shown;
  for (std::size_t i = 0; i < text.size();) {
    const std::size_t obeyed = count_obeyed(text, i);
    if (obeyed == 0) {
      shown += text[i++];
    }
    for (const std::size_t end = i + obeyed; i < end; ++i) {
      std::array<char, 5> escape{};
      std::snprintf(escape.data(), escape.size(), "\\x%02x", byte_at(text, i));
      shown += escape.data();
    }
  }
  return shown;
}
