// Reading a plan's part of engine.json. Everything throws FormatError.
#pragma once

#include <string>

#include "manifest/json.h"
#include "manifest/manifest.h"

namespace wanrt::impl {

Plan read_plan(const Json& value, const std::string& place);

// Check a graph's plan, or that there is none, against the rest of the manifest.
void check_plan(const Graph& graph, const Manifest& manifest);

}  // namespace wanrt::impl
