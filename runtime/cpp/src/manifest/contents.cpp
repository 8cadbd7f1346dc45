#include "manifest/contents.h"

#include <system_error>
#include <vector>

#include "error.h"
#include "file.h"
#include "hashes.h"

namespace wanrt::impl {

namespace {

std::vector<FileEntry> list_hashed(const Manifest& manifest) {
  std::vector<FileEntry> files;
  for (const auto& [name, graph] : manifest.graphs) {
    files.push_back(graph.file);
    if (graph.emulated) {
      files.push_back(*graph.emulated);
    }
    if (graph.plan && graph.plan->layers) {
      files.push_back(*graph.plan->layers);
    }
  }
  for (const WeightFile& weights : manifest.weights) {
    if (weights.constants) {
      files.push_back(weights.file);
    }
  }
  return files;
}

void check_hash(const std::string& path, const std::string& sha256) {
  std::string problem;
  try {
    if (sha256_file(File(path)) == sha256) {
      return;
    }
    problem = path + ": its bytes are not the recorded ones (sha256)";
  } catch (const std::system_error& error) {
    problem = path + " can't be read: " + error.code().message();
  } catch (const FormatError& error) {
    problem = path + " can't be read: " + error.what();
  }
  throw Error(WANRT_MANIFEST_ERROR, problem, "rebuild the engine with --force");
}

}  // namespace

void check_contents(const Folder& folder) {
  for (const FileEntry& entry : list_hashed(folder.manifest)) {
    check_hash(folder.file(entry), entry.sha256);
  }
}

}  // namespace wanrt::impl
