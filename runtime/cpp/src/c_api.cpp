// The C ABI over the C++ inside: no exception passes, every failure is a status and two lines.
#include <algorithm>
#include <array>
#include <cstring>
#include <exception>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "backend.h"
#include "engine.h"
#include "error.h"
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
};

struct wanrt_tensors {
  std::vector<wanrt::impl::StoredTensor> entries;
  std::vector<wanrt::impl::Buffer> memory;
};

namespace {

using wanrt::impl::Error;
using wanrt::impl::Shape;
using wanrt::impl::TensorSpec;
using wanrt::impl::View;

// Copy as much as fits in one line, without cutting a UTF-8 character in two.
template <std::size_t N>
void copy_text(char (&to)[N], const char* from) noexcept {
  std::size_t length = std::min(std::strlen(from), N - 1);
  while (from[length] != '\0' && length > 0 &&
         (static_cast<unsigned char>(from[length]) & 0xC0U) == 0x80U) {
    --length;
  }
  std::transform(from, from + length, to, [](char letter) {
    const auto code = static_cast<unsigned char>(letter);
    return code < 0x20 || code == 0x7F ? ' ' : letter;
  });
  to[length] = '\0';
}

wanrt_status report(wanrt_error* error, wanrt_status status, const char* message,
                    const char* hint = "") noexcept {
  if (error != nullptr) {
    copy_text(error->message, message);
    copy_text(error->hint, hint);
  }
  return status;
}

// Run a function's body and make a status of however it ends.
template <typename Body>
wanrt_status guard(wanrt_error* error, Body body) noexcept {
  try {
    body();
    return report(error, WANRT_OK, "");
  } catch (const Error& problem) {
    return report(error, problem.status(), problem.what(), problem.hint().c_str());
  } catch (const std::bad_alloc&) {
    return report(error, WANRT_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& problem) {
    return report(error, WANRT_INTERNAL_ERROR, problem.what());
  } catch (...) {
    return report(error, WANRT_INTERNAL_ERROR, "unknown exception");
  }
}

template <typename Pointer>
void require(Pointer pointer, const char* name) {
  if (pointer == nullptr) {
    throw Error(WANRT_USAGE_ERROR, std::string(name) + " is a null pointer");
  }
}

void require_index(std::size_t index, std::size_t count, const char* kind) {
  if (index >= count) {
    throw Error(WANRT_USAGE_ERROR, std::string("there is no ") + kind + " " +
                                       std::to_string(index) + " of " + std::to_string(count));
  }
}

wanrt_tensor describe(const char* name, const View& view) {
  if (view.shape.size() > WANRT_MAX_RANK) {
    throw Error(WANRT_UNSUPPORTED, std::string(name) + " has " + std::to_string(view.shape.size()) +
                                       " dimensions, libwanrt takes 8 at most");
  }
  wanrt_tensor tensor = {};
  tensor.name = name;
  tensor.dtype = view.dtype;
  tensor.memory = view.memory;
  tensor.rank = view.shape.size();
  std::copy(view.shape.begin(), view.shape.end(), std::begin(tensor.shape));
  tensor.data = view.data;
  tensor.bytes = view.bytes;
  return tensor;
}

// Symbols of a graph's inputs in a workload, and -1 for shapes that it doesn't tell.
View view_in(const wanrt::impl::Manifest& manifest, const wanrt::impl::Workload& workload,
             const TensorSpec& spec) {
  wanrt::impl::Symbols symbols;
  for (const TensorSpec& input : manifest.forward().inputs) {
    const auto shape = workload.shapes.find(input.name);
    if (shape != workload.shapes.end()) {
      wanrt::impl::match_shape(input.shape, shape->second, symbols);
    }
  }
  View view;
  view.dtype = spec.dtype;
  view.shape = wanrt::impl::resolve_shape(spec.shape, symbols);
  if (wanrt::impl::is_known(view.shape)) {
    view.bytes =
        wanrt::impl::tensor_bytes(view.shape, wanrt::impl::dtype_bytes(spec.dtype)).value_or(0);
  }
  return view;
}

std::vector<const TensorSpec*> specs_of(const wanrt::impl::Manifest& manifest, wanrt_kind kind) {
  if (kind == WANRT_ADAPTER_INPUT) {
    return manifest.adapter_inputs();
  }
  const wanrt::impl::Graph& graph = manifest.forward();
  std::vector<const TensorSpec*> specs;
  for (const TensorSpec& spec : kind == WANRT_OUTPUT ? graph.outputs : graph.inputs) {
    if (kind == WANRT_OUTPUT || spec.role == wanrt::impl::Role::data) {
      specs.push_back(&spec);
    }
  }
  return specs;
}

wanrt::impl::Options read_options(const wanrt_options* given) {
  wanrt::impl::Options options;
  if (given == nullptr) {
    return options;
  }
  if (given->device != WANRT_CPU && given->device != WANRT_CUDA) {
    throw Error(WANRT_USAGE_ERROR, "there is no device " + std::to_string(given->device));
  }
  if (given->threads < 0 || given->device_id < 0) {
    throw Error(WANRT_USAGE_ERROR, "threads and device_id can't be negative");
  }
  options.device = given->device;
  options.device_id = given->device_id;
  options.threads = given->threads;
  options.mapped = given->mapped != 0;
  options.workload = given->workload != nullptr ? given->workload : "";
  options.stream = given->stream;
  options.no_graph = given->no_graph != 0;
  return options;
}

std::map<std::string, View> read_views(const wanrt_tensor* tensors, std::size_t count) {
  if (count > 0) {
    require(tensors, "tensors");
  }
  std::map<std::string, View> views;
  for (const wanrt_tensor* one = tensors; one != tensors + count; ++one) {
    require(one->name, "a tensor's name");
    if (one->rank > WANRT_MAX_RANK) {
      throw Error(WANRT_USAGE_ERROR, std::string(one->name) + " has rank " +
                                         std::to_string(one->rank) + ", the most is 8");
    }
    View view{one->dtype, one->memory,
              Shape(std::begin(one->shape), std::begin(one->shape) + one->rank), one->data,
              one->bytes};
    if (!views.emplace(one->name, std::move(view)).second) {
      throw Error(WANRT_USAGE_ERROR, std::string(one->name) + " is given twice");
    }
  }
  return views;
}

std::unique_ptr<wanrt_tensors> read_tensors(const std::string& path) {
  std::string problem;
  try {
    const wanrt::impl::SafetensorsFile file(path);
    auto tensors = std::make_unique<wanrt_tensors>();
    tensors->entries = file.header().tensors;
    for (const wanrt::impl::StoredTensor& entry : tensors->entries) {
      tensors->memory.emplace_back(entry.end - entry.begin);
      file.read(entry, tensors->memory.back().data());
    }
    return tensors;
  } catch (const wanrt::impl::FormatError& error) {
    problem = error.what();
  } catch (const std::system_error& error) {
    problem = error.code().message();
  }
  throw Error(WANRT_ENGINE_ERROR, path + " can't be read: " + problem);
}

}  // namespace

uint32_t wanrt_abi_version(void) { return WANRT_ABI_VERSION; }

const char* wanrt_version(void) { return WANRT_VERSION; }

const char* wanrt_backends(void) { return wanrt::impl::list_backends(); }

wanrt_status wanrt_manifest_read(const char* folder, wanrt_manifest** manifest,
                                 wanrt_error* error) {
  return guard(error, [&] {
    require(folder, "folder");
    require(manifest, "manifest");
    *manifest = std::make_unique<wanrt_manifest>(wanrt_manifest{wanrt::impl::read_folder(folder)})
                    .release();
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
    const wanrt::impl::Manifest& from = manifest->folder.manifest;
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
    const wanrt::impl::Workload& from = workloads[index];
    *workload = {from.name.c_str(), from.width, from.height, from.frames, from.batch, from.tokens};
  });
}

wanrt_status wanrt_manifest_tensor(const wanrt_manifest* manifest, const char* workload,
                                   wanrt_kind kind, size_t index, wanrt_tensor* tensor,
                                   wanrt_error* error) {
  return guard(error, [&] {
    require(manifest, "manifest");
    require(tensor, "tensor");
    const wanrt::impl::Manifest& from = manifest->folder.manifest;
    const wanrt::impl::Workload* chosen =
        workload == nullptr ? &from.workloads.front() : from.find_workload(workload);
    if (chosen == nullptr) {
      throw Error(WANRT_USAGE_ERROR, std::string("there is no workload '") + workload + "'",
                  "there is: " + from.workload_names());
    }
    if (kind != WANRT_INPUT && kind != WANRT_OUTPUT && kind != WANRT_ADAPTER_INPUT) {
      throw Error(WANRT_USAGE_ERROR, "there is no kind " + std::to_string(kind));
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

wanrt_status wanrt_open(const char* folder, const wanrt_options* options, wanrt_engine** engine,
                        wanrt_error* error) {
  return guard(error, [&] {
    require(folder, "folder");
    require(engine, "engine");
    const wanrt::impl::Options chosen = read_options(options);
    *engine = std::make_unique<wanrt_engine>(wanrt::impl::read_folder(folder), chosen).release();
  });
}

void wanrt_close(wanrt_engine* engine) { const std::unique_ptr<wanrt_engine> freed(engine); }

const wanrt_manifest* wanrt_engine_manifest(const wanrt_engine* engine) {
  return engine == nullptr ? nullptr : &engine->manifest;
}

wanrt_status wanrt_bind(wanrt_engine* engine, const wanrt_tensor* inputs, size_t input_count,
                        const wanrt_tensor* outputs, size_t output_count, wanrt_error* error) {
  return guard(error, [&] {
    require(engine, "engine");
    engine->engine.bind(read_views(inputs, input_count), read_views(outputs, output_count));
  });
}

wanrt_status wanrt_output(wanrt_engine* engine, size_t index, wanrt_tensor* output,
                          wanrt_error* error) {
  return guard(error, [&] {
    require(engine, "engine");
    require(output, "output");
    const auto& outputs = engine->manifest.folder.manifest.forward().outputs;
    require_index(index, outputs.size(), "output");
    *output = describe(outputs[index].name.c_str(), engine->engine.output(index));
  });
}

wanrt_status wanrt_forward(wanrt_engine* engine, wanrt_error* error) {
  return guard(error, [&] {
    require(engine, "engine");
    engine->engine.forward();
  });
}

wanrt_status wanrt_time_forward(wanrt_engine* engine, double* seconds, wanrt_error* error) {
  return guard(error, [&] {
    require(engine, "engine");
    require(seconds, "seconds");
    *seconds = engine->engine.time_forward();
  });
}

wanrt_status wanrt_swap(wanrt_engine* engine, const char* adapter, wanrt_error* error) {
  return guard(error, [&] {
    require(engine, "engine");
    engine->engine.swap(adapter == nullptr ? std::nullopt : std::optional<std::string>(adapter));
  });
}

wanrt_status wanrt_tensors_read(const char* path, wanrt_tensors** tensors, wanrt_error* error) {
  return guard(error, [&] {
    require(path, "path");
    require(tensors, "tensors");
    *tensors = read_tensors(path).release();
  });
}

wanrt_status wanrt_tensors_get(const wanrt_tensors* tensors, size_t index, wanrt_tensor* tensor,
                               wanrt_error* error) {
  return guard(error, [&] {
    require(tensors, "tensors");
    require(tensor, "tensor");
    if (index >= tensors->entries.size()) {
      *tensor = {};
      return;
    }
    const wanrt::impl::StoredTensor& entry = tensors->entries[index];
    const wanrt::impl::Buffer& memory = tensors->memory[index];
    const View view{wanrt::impl::engine_dtype(entry.dtype), WANRT_HOST, entry.shape, memory.data(),
                    memory.size()};
    *tensor = describe(entry.name.c_str(), view);
  });
}

void wanrt_tensors_free(wanrt_tensors* tensors) {
  const std::unique_ptr<wanrt_tensors> freed(tensors);
}
