// Canonical adapters: what swappable engines load (engines/README.md).
#pragma once

#include <map>
#include <set>
#include <string>

#include "file.h"
#include "manifest/folder.h"
#include "tensors.h"

namespace wanrt::impl {

struct Matrix {
  std::int64_t rows = 0, columns = 0;
  Buffer data;
};

using Adapter = std::map<std::string, Matrix>;

// An adapter's matrices by the engine's input names, unpadded. Everything is checked before
// anything is returned. Of a file that isn't in `checked` yet, and is added to it, values are
// looked at too, and the hash if engine.json has one. Throws Error(WANRT_ADAPTER_ERROR).
Adapter read_adapter(const std::string& path, const Folder& folder,
                     std::set<FileIdentity>& checked);

// Copy a matrix into the top left of a zero-padded input.
void pad_matrix(const View& input, const Matrix& matrix);

}  // namespace wanrt::impl
