// Versions and manifests of the C ABI.
#include <memory>
#include <string>

#include "c_api/handles.h"
#include "c_api/status.h"
#include "tensors.h"

using namespace wanrt::impl;

namespace {

// Symbols of a graph's inputs in a workload, and -1 for shapes that it doesn't tell.
View view_in(const Manifest& manifest, const Workload& workload, const TensorSpec& spec) {
  Symbols symbols;
  for (const TensorSpec* input : manifest.data_inputs()) {
    const auto shape = workload.shapes.find(input->name);
    if (shape != workload.shapes.end()) {
      match_shape(input->shape, shape->second, symbols);
    }
  }
  View view;
  view.dtype = spec.dtype;
  view.shape = resolve_shape(spec.shape, symbols);
  if (is_known(view.shape)) {
    view.bytes = tensor_bytes(view.shape, dtype_bytes(spec.dtype)).value_or(0);
  }
  return view;
}

}  // namespace

uint32_t wanrt_abi_version(void) { return WANRT_ABI_VERSION; }

const char* wanrt_version(void) { return WANRT_VERSION; }

const char* wanrt_backends(void) { return list_backends(); }

wanrt_status wanrt_manifest_read(const char* folder, wanrt_manifest** manifest,
                                 wanrt_error* error) {
  return guard(error, [&] {
    const std::string path = require_text(folder, "folder");
    require(manifest, "manifest");
    *manifest = std::make_unique<wanrt_manifest>(wanrt_manifest{read_folder(path)}).release();
  });
}

void wanrt_manifest_free(wanrt_manifest* manifest) {
  const std::unique_ptr<wanrt_manifest> freed(manifest);
}

wanrt_status wanrt_manifest_info(const wanrt_manifest* manifest, wanrt_info* info,
                                 wanrt_error* error) {
  return guard(error, [&] {
    require(manifest, "manifest");
    require(info, "info");
    const Manifest& from = manifest->folder.manifest;
    wanrt_info to = {};
    to.name = from.name.c_str();
    to.model = from.model.c_str();
    to.mode = from.mode.c_str();
    to.dtype = from.dtype.c_str();
    to.backend = from.backend.c_str();
    to.rank = from.rank;
    to.max_rank = from.max_rank;
    to.random_weights = from.random_weights ? 1 : 0;
    to.full_finetune = from.full_finetune ? 1 : 0;
    to.weight_bytes = from.weight_bytes();
    to.workloads = from.workloads.size();
    to.inputs = specs_of(from, WANRT_INPUT).size();
    to.outputs = from.forward().outputs.size();
    to.adapter_inputs = specs_of(from, WANRT_ADAPTER_INPUT).size();
    to.context_inputs = specs_of(from, WANRT_CONTEXT_INPUT).size();
    *info = to;
  });
}

wanrt_status wanrt_manifest_workload(const wanrt_manifest* manifest, size_t index,
                                     wanrt_workload* workload, wanrt_error* error) {
  return guard(error, [&] {
    require(manifest, "manifest");
    require(workload, "workload");
    const auto& workloads = manifest->folder.manifest.workloads;
    require_index(index, workloads.size(), "workload");
    const Workload& from = workloads[index];
    *workload = {from.name.c_str(), from.width, from.height, from.frames, from.batch, from.tokens};
  });
}

wanrt_status wanrt_manifest_tensor(const wanrt_manifest* manifest, const char* workload,
                                   wanrt_kind kind, size_t index, wanrt_tensor* tensor,
                                   wanrt_error* error) {
  return guard(error, [&] {
    require(manifest, "manifest");
    require(tensor, "tensor");
    const Manifest& from = manifest->folder.manifest;
    const Workload* chosen =
        workload == nullptr ? &from.workloads.front() : from.find_workload(workload);
    if (chosen == nullptr) {
      refuse_usage(std::string("there is no workload '") + workload + "'",
                   "there is: " + from.workload_names());
    }
    if (kind != WANRT_INPUT && kind != WANRT_OUTPUT && kind != WANRT_ADAPTER_INPUT &&
        kind != WANRT_CONTEXT_INPUT) {
      refuse_usage("there is no kind " + std::to_string(kind));
    }
    const auto specs = specs_of(from, kind);
    require_index(index, specs.size(), "tensor");
    const TensorSpec& spec = *specs[index];
    *tensor = describe(spec.name.c_str(), view_in(from, *chosen, spec));
    if (spec.range) {
      tensor->low = spec.range->first;
      tensor->high = spec.range->second;
    }
  });
}

const char* wanrt_manifest_json(const wanrt_manifest* manifest) {
  return manifest == nullptr ? nullptr : manifest->folder.text.c_str();
}
