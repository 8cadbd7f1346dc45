// A backend loaded, with its progress reported to the caller, who may stop it.
#pragma once

#include <memory>

#include "backend.h"
#include "manifest/folder.h"

namespace wanrt::impl {

// Load one of an engine's graphs. If the caller wants progress, a thread of its own loads while
// this one tells. Throws Error; one of WANRT_CANCELLED, with nothing left behind, if he gave up.
std::unique_ptr<Backend> load_backend(const Folder& folder, const Graph& graph,
                                      const Options& options);

}  // namespace wanrt::impl
