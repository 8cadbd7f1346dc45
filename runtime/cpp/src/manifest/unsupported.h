// What engine.json may say that this version can read but not run.
#pragma once

#include <string>

#include "manifest/manifest.h"

namespace wanrt::impl {

// What of an engine this version doesn't run, beside what it runs instead; empty if it runs it.
std::string find_unsupported(const Manifest& manifest);

}  // namespace wanrt::impl
