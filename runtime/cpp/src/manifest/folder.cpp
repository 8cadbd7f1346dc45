#include "manifest/folder.h"

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <system_error>

#include "error.h"
#include "file.h"
#include "safetensors.h"

namespace wanrt::impl {

namespace {

namespace fs = std::filesystem;

constexpr std::uint64_t kMaxManifestBytes = 64U << 20U;

[[noreturn]] void refuse(const std::string& message, const std::string& hint = "") {
  throw Error(WANRT_MANIFEST_ERROR, message, hint);
}

std::string read_manifest_text(const std::string& folder) {
  const std::string path = folder + "/engine.json";
  try {
    const File file(path);
    if (!file.is_regular()) {
      refuse(path + " is not a file");
    }
    if (file.size() > kMaxManifestBytes) {
      refuse(path + " is larger than " + std::to_string(kMaxManifestBytes >> 20U) + " MiB");
    }
    std::string text(file.size(), '\0');
    file.read(text.data(), text.size(), 0);
    return text;
  } catch (const std::system_error& error) {
    if (error.code().value() == ENOENT) {
      refuse(folder + " is not an engine folder: it has no engine.json",
             "build one: wanexport build --rank 32");
    }
    if (error.code().value() == ENOTDIR) {
      refuse(folder + " is a file, not an engine folder");
    }
    refuse(path + " can't be read: " + error.code().message());
  } catch (const FormatError& error) {
    refuse(path + " can't be read: " + error.what());
  }
}

bool lies_inside(const fs::path& path, const fs::path& folder) {
  auto part = path.begin();
  for (const fs::path& parent : folder) {
    if (part == path.end() || *part != parent) {
      return false;
    }
    ++part;
  }
  return true;
}

void check_file(const std::string& path, const fs::path& folder, std::int64_t bytes) {
  std::error_code problem;
  const fs::path resolved = fs::canonical(path, problem);
  if (problem) {
    refuse(path + " is missing", "rebuild the engine with --force");
  }
  if (!lies_inside(resolved, folder)) {
    refuse(path + " leads out of the engine folder", "rebuild the engine");
  }
  if (!fs::is_regular_file(resolved, problem)) {
    refuse(path + " is not a file", "rebuild the engine");
  }
  const auto size = fs::file_size(resolved, problem);
  if (problem || size != static_cast<std::uintmax_t>(bytes)) {
    refuse(
        path + " has " + std::to_string(size) + " bytes, engine.json says " + std::to_string(bytes),
        "rebuild the engine with --force");
  }
}

void check_weights(const Folder& folder, const WeightFile& weights) {
  const std::string path = folder.file(weights.file);
  try {
    if (weights.linked && File(path).mtime_ns() != weights.mtime_ns) {
      refuse(path +
                 ": its mtime isn't the recorded one: the engine was copied or moved, or somebody "
                 "wrote over these bytes",
             "compare the bytes: wanrt verify " + folder.path +
                 " --restore-mtime; if they differ, rebuild with --force");
    }
    const SafetensorsFile header(path);
  } catch (const std::system_error& error) {
    refuse(path + " can't be read: " + error.code().message());
  } catch (const FormatError& error) {
    refuse(path + " isn't a safetensors file: " + error.what(), "rebuild the engine with --force");
  }
}

}  // namespace

Folder read_folder(const std::string& path) {
  Folder folder;
  folder.path = path;
  folder.text = read_manifest_text(path);
  folder.manifest = parse_manifest(folder.text, path + "/engine.json");
  std::error_code problem;
  const fs::path resolved = fs::canonical(path, problem);
  for (const FileEntry& entry : list_files(folder.manifest)) {
    check_file(folder.file(entry), resolved, entry.bytes);
  }
  for (const WeightFile& weights : folder.manifest.weights) {
    check_weights(folder, weights);
  }
  return folder;
}

}  // namespace wanrt::impl
