// Where an engine's values come from and how far they can be trusted: those parts of engine.json.
// Everything throws FormatError.
#pragma once

#include <string>

#include "manifest/json.h"

namespace wanrt::impl {

bool check_source(const Json& value, const std::string& place);
bool check_prefused(const Json& value, const std::string& place);

// Return the scheme.
std::string read_quantization(const Json& value, const std::string& place);
void check_verification(const Json& value, const std::string& place);

}  // namespace wanrt::impl
