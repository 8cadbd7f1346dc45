// Fields of engine.json that occur in more than one place. Everything throws FormatError.
#pragma once

#include <initializer_list>
#include <string>
#include <utility>
#include <vector>

#include "manifest/json.h"
#include "manifest/manifest.h"

namespace wanrt::impl {

[[noreturn]] void refuse_at(const std::string& place, const std::string& problem);

// A relative path with `/` that can't leave the engine folder.
std::string read_path(Object& object, const char* key);
std::string read_hash(const Json& value, const std::string& place);
std::string read_sha256(Object& object, const char* key = "sha256");
FileEntry read_file_entry(Object& object);
FileEntry read_lone_file(const Json& value, const std::string& place);  // and nothing else
wanrt_dtype read_dtype(Object& object);
TensorSpec read_tensor(const Json& value, const std::string& place);

// A text that may be missing or null: then it is empty.
std::string read_optional_text(Object& object, const char* key);
std::string read_optional_choice(Object& object, const char* key,
                                 std::initializer_list<const char*> allowed);

// A list of what `read(element, place)` returns.
template <typename Read>
auto read_list(const Json& value, const std::string& place, Read read) {
  std::vector<decltype(read(value, place))> list;
  for (const Json& element : read_array(value, place)) {
    list.push_back(read(element, place_of(place, list.size())));
  }
  return list;
}

template <typename Read>
auto read_list(Object& object, const char* key, Read read) {
  return read_list(object.need(key), object.place(key), read);
}

// Call `read(key, value, place)` for every field of an object that is a dictionary.
template <typename Read>
void read_dictionary(Object& object, const char* key, Read read) {
  for (const auto& [name, value] : read_object(object.need(key), object.place(key)).items()) {
    read(name, value, object.place(key) + "." + name);
  }
}

}  // namespace wanrt::impl
