// A backend loaded, with its progress told to the caller, who may give up.
#pragma once

#include <memory>

#include "backend.h"
#include "manifest/folder.h"

namespace wanrt::impl {

// Load the engine's backend. If the caller wants to be told of it, a thread of its own loads while
// this one tells. Throws Error; one of WANRT_CANCELLED, with nothing left behind, if he gave up.
std::unique_ptr<Backend> load_backend(const Folder& folder, const Options& options);

}  // namespace wanrt::impl
