#include "safetensors.h"

#include <algorithm>
#include <array>
#include <tuple>
#include <utility>

#include "error.h"
#include "manifest/json.h"

namespace wanrt::impl {

namespace {

// A header takes some 150 bytes per tensor: this is room for 100,000 of them.
constexpr std::uint64_t kMaxHeaderBytes = 16U << 20U;
constexpr std::uint64_t kLengthBytes = 8;
constexpr const char* kMetadata = "__metadata__";

struct DtypeBits {
  std::string_view name;
  std::size_t bits;
};

// All that the format knows (safetensors 0.8): weights may be of dtypes that engines don't use.
constexpr std::array<DtypeBits, 22> kDtypes = {{
    {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6},     {"BOOL", 8},    {"U8", 8},
    {"I8", 8},      {"F8_E4M3", 8}, {"F8_E4M3FNUZ", 8}, {"F8_E5M2", 8}, {"F8_E5M2FNUZ", 8},
    {"F8_E8M0", 8}, {"U16", 16},    {"I16", 16},        {"F16", 16},    {"BF16", 16},
    {"U32", 32},    {"I32", 32},    {"F32", 32},        {"U64", 64},    {"I64", 64},
    {"F64", 64},    {"C64", 64},
}};

std::size_t dtype_bits(const std::string& name, const std::string& place) {
  const auto* const found = std::find_if(kDtypes.begin(), kDtypes.end(),
                                         [&](const DtypeBits& one) { return one.name == name; });
  if (found == kDtypes.end()) {
    throw FormatError(place + ": no dtype is called " + name);
  }
  return found->bits;
}

std::uint64_t expected_bytes(const StoredTensor& tensor, const std::string& place) {
  const auto bits = tensor_bytes(tensor.shape, dtype_bits(tensor.dtype, place));
  if (!bits || *bits % 8 != 0) {
    throw FormatError(place + ": no tensor has shape " + show_shape(tensor.shape));
  }
  return *bits / 8;
}

StoredTensor read_stored(const std::string& name, const Json& value) {
  Object object(value, name);
  StoredTensor tensor;
  tensor.name = name;
  tensor.dtype = object.text("dtype");
  for (const Json& size : read_array(object.need("shape"), object.place("shape"))) {
    tensor.shape.push_back(read_count(size, object.place("shape")));
  }
  const Json& offsets = read_array(object.need("data_offsets"), object.place("data_offsets"));
  if (offsets.size() != 2) {
    throw FormatError(object.place("data_offsets") + ": Input should have 2 items");
  }
  tensor.begin = static_cast<std::uint64_t>(read_count(offsets[0], object.place("data_offsets")));
  tensor.end = static_cast<std::uint64_t>(read_count(offsets[1], object.place("data_offsets")));
  object.done();
  if (tensor.end < tensor.begin || tensor.end - tensor.begin != expected_bytes(tensor, name)) {
    throw FormatError(name + ": its offsets don't fit its shape " + show_shape(tensor.shape));
  }
  return tensor;
}

void check_gapless(const std::vector<StoredTensor>& tensors, std::uint64_t data_bytes) {
  std::uint64_t end = 0;
  for (const StoredTensor& tensor : tensors) {
    if (tensor.begin != end) {
      throw FormatError(tensor.name + ": its bytes don't begin where the last tensor's end");
    }
    end = tensor.end;
  }
  if (end != data_bytes) {
    throw FormatError("its tensors take " + std::to_string(end) + " bytes, the file has " +
                      std::to_string(data_bytes));
  }
}

std::uint64_t header_bytes(const File& file) {
  if (!file.is_regular()) {
    throw FormatError("not a file");
  }
  if (file.size() < kLengthBytes) {
    throw FormatError("the file ends too early");
  }
  std::array<unsigned char, kLengthBytes> bytes = {};
  file.read(bytes.data(), bytes.size(), 0);
  std::uint64_t length = 0;  // little endian, whatever this machine is
  std::for_each(bytes.rbegin(), bytes.rend(),
                [&](unsigned char byte) { length = length << 8U | byte; });
  if (length > kMaxHeaderBytes || length > file.size() - kLengthBytes) {
    throw FormatError("its header can't have " + std::to_string(length) + " bytes");
  }
  return length;
}

}  // namespace

SafetensorsHeader parse_safetensors_header(std::string_view text, std::uint64_t data_bytes) {
  if (text.empty() || text.front() != '{') {
    throw FormatError("its header is not a JSON object");
  }
  const Document document = parse_json(text);
  SafetensorsHeader header;
  for (const auto& [name, value] : document.root.items()) {
    if (name != kMetadata) {
      header.tensors.push_back(read_stored(name, value));
      continue;
    }
    for (const auto& [key, word] : read_object(value, kMetadata).items()) {
      header.metadata[key] = read_text(word, std::string(kMetadata) + "." + key);
    }
  }
  std::sort(header.tensors.begin(), header.tensors.end(),
            [](const StoredTensor& a, const StoredTensor& b) {
              return std::tie(a.begin, a.end) < std::tie(b.begin, b.end);
            });
  check_gapless(header.tensors, data_bytes);
  return header;
}

SafetensorsFile::SafetensorsFile(const std::string& path) : file_(path) {
  const std::uint64_t length = header_bytes(file_);
  data_begin_ = kLengthBytes + length;
  std::string text(length, '\0');
  file_.read(text.data(), text.size(), kLengthBytes);
  header_ = parse_safetensors_header(text, file_.size() - data_begin_);
}

void SafetensorsFile::read(const StoredTensor& tensor, void* to) const {
  file_.read(to, tensor.end - tensor.begin, data_begin_ + tensor.begin);
}

wanrt_dtype engine_dtype(std::string_view stored) {
  if (stored == "F32") {
    return WANRT_FP32;
  }
  if (stored == "F16") {
    return WANRT_FP16;
  }
  return stored == "BF16" ? WANRT_BF16 : WANRT_OTHER;
}

}  // namespace wanrt::impl
