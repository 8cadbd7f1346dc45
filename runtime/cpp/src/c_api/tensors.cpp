// Files of tensors in the C ABI.
#include <memory>
#include <string>
#include <system_error>

#include "c_api/handles.h"
#include "c_api/status.h"

using namespace wanrt::impl;

namespace {

std::unique_ptr<wanrt_tensors> read_tensors(const std::string& path) {
  std::string problem;
  try {
    const SafetensorsFile file(path);
    auto tensors = std::make_unique<wanrt_tensors>();
    tensors->entries = file.header().tensors;
    tensors->metadata = file.header().metadata;
    for (const StoredTensor& entry : tensors->entries) {
      tensors->memory.emplace_back(entry.end - entry.begin);
      file.read(entry, tensors->memory.back().data());
    }
    return tensors;
  } catch (const FormatError& error) {
    problem = error.what();
  } catch (const std::system_error& error) {
    problem = error.code().message();
  }
  throw Error(WANRT_ENGINE_ERROR, path + " can't be read: " + problem);
}

}  // namespace

wanrt_status wanrt_tensors_read(const char* path, wanrt_tensors** tensors, wanrt_error* error) {
  return guard(error, [&] {
    const std::string from = require_text(path, "path");
    require(tensors, "tensors");
    *tensors = read_tensors(from).release();
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
    const StoredTensor& entry = tensors->entries[index];
    const Buffer& memory = tensors->memory[index];
    const View view{engine_dtype(entry.dtype), WANRT_HOST, entry.shape, memory.data(),
                    memory.size()};
    *tensor = describe(entry.name.c_str(), view);
  });
}

const char* wanrt_tensors_metadata(const wanrt_tensors* tensors, const char* key) {
  if (tensors == nullptr || key == nullptr) {
    return nullptr;
  }
  const auto found = tensors->metadata.find(key);
  return found == tensors->metadata.end() ? nullptr : found->second.c_str();
}

void wanrt_tensors_free(wanrt_tensors* tensors) {
  const std::unique_ptr<wanrt_tensors> freed(tensors);
}
