// What the C ABI's handles are.
#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "engine.h"
#include "manifest/folder.h"
#include "safetensors.h"
#include "wanrt/wanrt.h"

struct wanrt_manifest {
  wanrt::impl::Folder folder;
};

struct wanrt_engine {
  wanrt_engine(wanrt::impl::Folder folder, const wanrt::impl::Options& options)
      : manifest{std::move(folder)}, engine(manifest.folder, options) {}

  wanrt_manifest manifest;
  wanrt::impl::Engine engine;
  std::atomic_flag busy = ATOMIC_FLAG_INIT;
};

struct wanrt_context {
  std::shared_ptr<const wanrt::impl::Context> held;  // an engine that it is bound to holds it too
};

struct wanrt_tensors {
  std::map<std::string, std::string> metadata;
  std::vector<wanrt::impl::StoredTensor> entries;
  std::vector<wanrt::impl::Buffer> memory;
};

namespace wanrt::impl {

// The tensors of a kind, in the graphs' order.
std::vector<const TensorSpec*> specs_of(const Manifest& manifest, wanrt_kind kind);

// A tensor as the ABI describes it. Throws Error for more dimensions than it has room for.
wanrt_tensor describe(const char* name, const View& view);

}  // namespace wanrt::impl
