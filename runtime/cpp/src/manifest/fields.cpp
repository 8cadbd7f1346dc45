#include "manifest/fields.h"

#include <algorithm>
#include <map>

#include "error.h"

namespace wanrt::impl {

namespace {

bool is_symbol(const std::string& text) {
  constexpr std::string_view kFirst = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_";
  const std::string rest = std::string(kFirst) + "0123456789";
  return !text.empty() && kFirst.find(text[0]) != std::string_view::npos &&
         text.find_first_not_of(rest) == std::string::npos;
}

Dim read_dim(const Json& value, const std::string& place) {
  if (!value.is_string()) {
    return read_count(value, place);
  }
  auto symbol = value.get<std::string>();
  if (!is_symbol(symbol)) {
    refuse_at(place, "Input should be a valid integer or a symbol's name");
  }
  return symbol;
}

Role read_role(Object& object) {
  if (!object.has("role")) {
    return Role::data;
  }
  static const std::map<std::string, Role> kRoles = {
      {"data", Role::data},           {"lora_A", Role::lora_a},   {"lora_B", Role::lora_b},
      {"strengths", Role::strengths}, {"context", Role::context}, {"card", Role::card}};
  return kRoles.at(
      object.choice("role", {"data", "lora_A", "lora_B", "strengths", "context", "card"}));
}

}  // namespace

void refuse_at(const std::string& place, const std::string& problem) {
  throw FormatError(place + ": " + problem);
}

std::string read_path(Object& object, const char* key) {
  std::string path = object.text(key);
  bool empty = true;
  bool inside = path.find('\\') == std::string::npos && path.find('\0') == std::string::npos &&
                path.rfind('/', 0) == std::string::npos;
  for (std::size_t begin = 0; begin <= path.size();) {
    const std::size_t end = std::min(path.find('/', begin), path.size());
    const std::string_view part = std::string_view(path).substr(begin, end - begin);
    empty = empty && (part.empty() || part == ".");
    inside = inside && part != "..";
    begin = end + 1;
  }
  if (empty || !inside) {
    refuse_at(object.place(key), "path leaves the engine folder: '" + path + "'");
  }
  return path;
}

std::string read_hash(const Json& value, const std::string& place) {
  std::string hash = read_text(value, place);
  const bool hex = hash.find_first_not_of("0123456789abcdef") == std::string::npos;
  if (hash.size() != 64 || !hex) {
    refuse_at(place, "String should be 64 lower-case hexadecimal digits");
  }
  return hash;
}

std::string read_sha256(Object& object, const char* key) {
  return read_hash(object.need(key), object.place(key));
}

std::string read_optional_text(Object& object, const char* key) {
  const Json* value = object.find(key);
  return value == nullptr ? "" : read_text(*value, object.place(key));
}

std::string read_optional_choice(Object& object, const char* key,
                                 std::initializer_list<const char*> allowed) {
  return object.find(key) == nullptr ? "" : object.choice(key, allowed);
}

FileEntry read_file_entry(Object& object) {
  return {read_path(object, "file"), object.count("bytes"), read_sha256(object)};
}

FileEntry read_lone_file(const Json& value, const std::string& place) {
  Object object(value, place);
  FileEntry entry = read_file_entry(object);
  object.done();
  return entry;
}

wanrt_dtype read_dtype(Object& object) {
  const std::string name = object.choice("dtype", {"fp32", "fp16", "bf16"});
  if (name == "fp32") {
    return WANRT_FP32;
  }
  return name == "fp16" ? WANRT_FP16 : WANRT_BF16;
}

TensorSpec read_tensor(const Json& value, const std::string& place) {
  Object object(value, place);
  TensorSpec spec;
  spec.name = object.text("name");
  spec.dtype = read_dtype(object);
  spec.shape = read_list(object, "shape", read_dim);
  if (spec.shape.size() > WANRT_MAX_RANK) {
    refuse_at(object.place("shape"), "libwanrt takes 8 dimensions at most");
  }
  spec.role = read_role(object);
  if (const Json* module = object.find("module")) {
    spec.module = read_text(*module, object.place("module"));
  }
  if (const Json* range = object.find("range")) {
    const auto ends = read_list(*range, object.place("range"), read_number);
    if (ends.size() != 2) {
      refuse_at(object.place("range"), "Tuple should have 2 items");
    }
    spec.range = {ends[0], ends[1]};
  }
  object.done();
  return spec;
}

}  // namespace wanrt::impl
