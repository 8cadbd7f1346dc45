#include "adapter.h"

#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "error.h"
#include "hashes.h"
#include "safetensors.h"

namespace wanrt::impl {

namespace {

namespace fs = std::filesystem;

constexpr const char* kFormat = "wanexport-adapter";
constexpr const char* kVersion = "1";

using Specs = std::map<std::string, const TensorSpec*>;

// What is wrong with an adapter; it ends the sentence "FILE ...".
class Refusal : public FormatError {
 public:
  using FormatError::FormatError;
};

std::size_t rank_axis(Role role) { return role == Role::lora_a ? 0 : 1; }

const char* role_name(Role role) { return role == Role::lora_a ? "lora_A" : "lora_B"; }

const char* stored_name(wanrt_dtype dtype) {
  if (dtype == WANRT_FP32) {
    return "F32";
  }
  return dtype == WANRT_FP16 ? "F16" : "BF16";
}

void check_metadata(const std::map<std::string, std::string>& metadata) {
  const auto format = metadata.find("format");
  if (format == metadata.end() || format->second != kFormat) {
    throw Refusal("isn't a canonical adapter");
  }
  const auto version = metadata.find("version");
  if (version == metadata.end() || version->second != kVersion) {
    throw Refusal("has version " + (version == metadata.end() ? "None" : version->second) +
                  ", this wanrt reads " + kVersion);
  }
}

void check_tensor(const StoredTensor& tensor, const Specs& specs) {
  const auto found = specs.find(tensor.name);
  if (found == specs.end()) {
    throw Refusal("holds " + tensor.name + ", which isn't an input of the engine");
  }
  const TensorSpec& spec = *found->second;
  if (tensor.dtype != stored_name(spec.dtype)) {
    throw Refusal("holds " + tensor.name + " in " + tensor.dtype + ", the engine takes " +
                  dtype_name(spec.dtype));
  }
  const Shape limit = resolve_shape(spec.shape, {});
  const std::size_t axis = rank_axis(spec.role);
  if (tensor.shape.size() != 2 || tensor.shape[1 - axis] != limit[1 - axis]) {
    throw Refusal("holds " + tensor.name + " of shape " + show_shape(tensor.shape) +
                  ", the engine takes up to " + show_shape(spec.shape));
  }
  if (tensor.shape[axis] > limit[axis]) {
    throw Refusal("has rank " + std::to_string(tensor.shape[axis]) + " at " + tensor.name +
                  ", the engine takes up to " + std::to_string(limit[axis]));
  }
}

void check_pairs(const std::vector<StoredTensor>& tensors, const Specs& specs) {
  std::map<std::string, std::map<Role, std::int64_t>> ranks;
  for (const StoredTensor& tensor : tensors) {
    const TensorSpec& spec = *specs.at(tensor.name);
    const std::string& module = spec.module.empty() ? spec.name : spec.module;
    ranks[module][spec.role] = tensor.shape[rank_axis(spec.role)];
  }
  for (const auto& [module, pair] : ranks) {
    if (pair.size() != 2) {
      throw Refusal(std::string("holds ") + role_name(pair.begin()->first) + " of " + module +
                    " without its other half");
    }
    if (pair.at(Role::lora_a) != pair.at(Role::lora_b)) {
      throw Refusal("has ranks " + std::to_string(pair.at(Role::lora_a)) + " and " +
                    std::to_string(pair.at(Role::lora_b)) + " at " + module);
    }
  }
}

// An adapter of the folder's must be the one that engine.json records.
void check_recorded(const std::string& path, const File& file, const Folder& folder) {
  for (const FileEntry& entry : folder.manifest.adapters) {
    std::error_code absent;  // such a file is another one
    if (fs::equivalent(path, folder.file(entry), absent) && sha256_file(file) != entry.sha256) {
      throw Refusal("has other bytes than engine.json records (sha256)");
    }
  }
}

void check_values(const Adapter& matrices, const Specs& specs) {
  for (const auto& [name, matrix] : matrices) {
    if (!all_usable(specs.at(name)->dtype, matrix.data)) {
      throw Refusal("holds values in " + name + " that aren't finite, or whose products aren't");
    }
  }
}

Adapter read_matrices(const std::string& path, const Specs& specs, const Folder& folder,
                      std::set<FileIdentity>& checked) {
  const SafetensorsFile file(path);
  check_metadata(file.header().metadata);
  for (const StoredTensor& tensor : file.header().tensors) {
    check_tensor(tensor, specs);
  }
  check_pairs(file.header().tensors, specs);
  const bool known = checked.count(file.file().identity()) > 0;
  if (!known) {
    check_recorded(path, file.file(), folder);
  }
  Adapter matrices;
  for (const StoredTensor& tensor : file.header().tensors) {
    Matrix matrix{tensor.shape[0], tensor.shape[1], Buffer(tensor.end - tensor.begin)};
    file.read(tensor, matrix.data.data());
    matrices.emplace(tensor.name, std::move(matrix));
  }
  if (!known) {
    check_values(matrices, specs);
    checked.insert(file.file().identity());
  }
  return matrices;
}

}  // namespace

Adapter read_adapter(const std::string& path, const Folder& folder,
                     std::set<FileIdentity>& checked) {
  Specs specs;
  for (const TensorSpec* spec : folder.manifest.adapter_inputs()) {
    specs[spec->name] = spec;
  }
  std::string problem;
  try {
    return read_matrices(path, specs, folder, checked);
  } catch (const Refusal& error) {
    problem = error.what();
  } catch (const FormatError& error) {
    problem = std::string("can't be read: ") + error.what();
  } catch (const std::system_error& error) {
    problem = "can't be read: " + error.code().message();
  }
  throw Error(WANRT_ADAPTER_ERROR, path + " " + problem,
              "convert it: wanexport adapter FILE --for " + folder.path + " -o x.safetensors");
}

void pad_matrix(const View& input, const Matrix& matrix) {
  auto* row = static_cast<std::byte*>(input.data);
  const std::size_t element = dtype_bytes(input.dtype);
  const std::size_t width = static_cast<std::size_t>(input.shape[1]) * element;
  const std::size_t used = static_cast<std::size_t>(matrix.columns) * element;
  const std::byte* from = matrix.data.data();
  for (std::int64_t i = 0; i < matrix.rows; ++i, row += width, from += used) {
    std::memcpy(row, from, used);
    std::memset(row + used, 0, width - used);
  }
  std::memset(row, 0, static_cast<std::size_t>(input.shape[0] - matrix.rows) * width);
}

}  // namespace wanrt::impl
