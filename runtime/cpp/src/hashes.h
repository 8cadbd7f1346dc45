// SHA-256, by OpenSSL: engine.json names files by it.
#pragma once

#include <string>

#include "file.h"

namespace wanrt::impl {

// The hash of a file's bytes, in lower-case hex. Throws std::system_error, FormatError or Error.
std::string sha256_file(const File& file);

}  // namespace wanrt::impl
