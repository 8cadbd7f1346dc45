// Strict JSON: no key twice, nothing nested deeply, no field left unread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <nlohmann/json.hpp>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace wanrt::impl {

using Json = nlohmann::json;

// A parsed document, and the order of the keys that Json sorts: of the objects that are values of
// the root's own fields, under the field's name.
struct Document {
  Json root;
  std::map<std::string, std::vector<std::string>> order;
};

// Throws FormatError; its message ends the sentence "FILE is ...".
Document parse_json(std::string_view text);

// An object whose fields are read one by one; `done` refuses those that nobody asked for.
// Everything throws FormatError("PLACE: what is wrong").
class Object {
 public:
  Object(const Json& value, std::string place);

  const Json& need(const char* key);
  const Json* find(const char* key);  // null if it is missing or null
  [[nodiscard]] bool has(const char* key) const;
  [[nodiscard]] std::string place(std::string_view key) const;
  void done() const;

  std::string text(const char* key);
  std::int64_t count(const char* key, std::int64_t least = 0);
  bool flag(const char* key);
  std::string choice(const char* key, std::initializer_list<const char*> allowed);

 private:
  const Json& value_;
  std::string place_;
  std::set<std::string, std::less<>> read_;
};

std::string read_text(const Json& value, const std::string& place);
std::int64_t read_count(const Json& value, const std::string& place, std::int64_t least = 0);
double read_number(const Json& value, const std::string& place);
const Json& read_array(const Json& value, const std::string& place);
const Json& read_object(const Json& value, const std::string& place);

// An element's place: "weights.0".
std::string place_of(const std::string& parent, std::size_t index);

}  // namespace wanrt::impl
