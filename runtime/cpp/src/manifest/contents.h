// Whether a folder's files hold the bytes that engine.json names by hash.
#pragma once

#include "manifest/folder.h"

namespace wanrt::impl {

// Hash what decides the computation and is small: graphs, constants and descriptions, but not
// weights and plans, which are left to `wanrt verify`. Throws Error(WANRT_MANIFEST_ERROR).
void check_contents(const Folder& folder);

}  // namespace wanrt::impl
