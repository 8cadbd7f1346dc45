// An engine folder: its manifest, and whether its files are the manifest's.
#pragma once

#include <string>

#include "manifest/manifest.h"

namespace wanrt::impl {

struct Folder {
  std::string path;
  std::string text;  // of engine.json
  Manifest manifest;

  [[nodiscard]] std::string file(const FileEntry& entry) const { return path + "/" + entry.file; }
};

// Read and check everything but the weights' bytes. Throws Error(WANRT_MANIFEST_ERROR).
Folder read_folder(const std::string& path);

}  // namespace wanrt::impl
