#include "manifest/json.h"

#include <functional>
#include <limits>
#include <unordered_set>
#include <utility>

#include "error.h"

namespace wanrt::impl {

namespace {

// As deep as Python's reader goes (pydantic's parser).
constexpr int kDeepest = 200;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";

[[noreturn]] void refuse(const std::string& place, const std::string& problem) {
  throw FormatError(place + ": " + problem);
}

bool is_utf8(std::string_view text) {
  try {
    static_cast<void>(Json(text).dump());
    return true;
  } catch (const Json::type_error&) {
    return false;
  }
}

// The library's words without its own number of the error.
std::string words_of(const Json::exception& error) {
  const std::string_view words = error.what();
  const std::size_t end = words.find("] ");
  return std::string(end == std::string_view::npos ? words : words.substr(end + 2));
}

// Watches a parse: refuses keys that are there twice and deep nesting, and notes keys' order.
class Watch {
 public:
  explicit Watch(Document& document) : document_(document) {}

  bool operator()(int depth, Json::parse_event_t event, const Json& parsed) {
    using Event = Json::parse_event_t;
    if (event == Event::object_start || event == Event::array_start) {
      if (depth >= kDeepest) {
        throw FormatError("not JSON: it is nested too deeply");
      }
      if (event == Event::object_start) {
        keys_.emplace_back();
      }
    } else if (event == Event::object_end) {
      keys_.pop_back();
    } else if (event == Event::key) {
      see(parsed.get_ref<const std::string&>());
    }
    return true;
  }

 private:
  void see(const std::string& key) {
    if (!keys_.back().insert(key).second) {
      throw FormatError("not JSON: key " + key + " is there twice");
    }
    if (keys_.size() == 1) {
      field_ = key;
    } else if (keys_.size() == 2) {
      document_.order[field_].push_back(key);
    }
  }

  Document& document_;
  std::vector<std::unordered_set<std::string>> keys_;
  std::string field_;
};

}  // namespace

Document parse_json(std::string_view text) {
  if (text.substr(0, kByteOrderMark.size()) == kByteOrderMark) {
    throw FormatError("not JSON: it begins with a byte order mark");
  }
  if (!is_utf8(text)) {
    throw FormatError("not JSON: it isn't UTF-8");
  }
  Document document;
  Watch watch(document);
  try {
    document.root = Json::parse(text, std::ref(watch));
  } catch (const Json::exception& error) {
    throw FormatError("not JSON: " + words_of(error));
  }
  return document;
}

Object::Object(const Json& value, std::string place)
    : value_(read_object(value, place)), place_(std::move(place)) {}

const Json& Object::need(const char* key) {
  read_.insert(key);
  const auto found = value_.find(key);
  if (found == value_.end()) {
    refuse(place(key), "Field required");
  }
  return *found;
}

const Json* Object::find(const char* key) {
  read_.insert(key);
  const auto found = value_.find(key);
  return found == value_.end() || found->is_null() ? nullptr : &*found;
}

bool Object::has(const char* key) const { return value_.contains(key); }

std::string Object::place(std::string_view key) const {
  return place_.empty() ? std::string(key) : place_ + "." + std::string(key);
}

void Object::done() const {
  for (const auto& [key, unused] : value_.items()) {
    if (read_.find(key) == read_.end()) {
      refuse(place(key), "Extra inputs are not permitted");
    }
  }
}

std::string Object::text(const char* key) { return read_text(need(key), place(key)); }

std::int64_t Object::count(const char* key, std::int64_t least) {
  return read_count(need(key), place(key), least);
}

bool Object::flag(const char* key) {
  const Json& value = need(key);
  if (!value.is_boolean()) {
    refuse(place(key), "Input should be a valid boolean");
  }
  return value.get<bool>();
}

std::string Object::choice(const char* key, std::initializer_list<const char*> allowed) {
  const Json& value = need(key);
  std::string list;
  for (const char* one : allowed) {
    if (value.is_string() && value.get_ref<const std::string&>() == one) {
      return one;
    }
    list += (list.empty() ? "'" : ", '") + std::string(one) + "'";
  }
  refuse(place(key), "Input should be one of " + list);
}

std::string read_text(const Json& value, const std::string& place) {
  if (!value.is_string()) {
    refuse(place, "Input should be a valid string");
  }
  return value.get<std::string>();
}

std::int64_t read_count(const Json& value, const std::string& place, std::int64_t least) {
  if (!value.is_number_integer()) {
    refuse(place, "Input should be a valid integer");
  }
  constexpr auto kMost = std::numeric_limits<std::int64_t>::max();
  if (value.is_number_unsigned() && value.get<std::uint64_t>() > std::uint64_t{kMost}) {
    refuse(place, "Input should be less than or equal to " + std::to_string(kMost));
  }
  const auto count = value.get<std::int64_t>();
  if (count < least) {
    refuse(place, "Input should be greater than or equal to " + std::to_string(least));
  }
  return count;
}

double read_number(const Json& value, const std::string& place) {
  if (!value.is_number()) {
    refuse(place, "Input should be a valid number");
  }
  return value.get<double>();
}

const Json& read_array(const Json& value, const std::string& place) {
  if (!value.is_array()) {
    refuse(place, "Input should be a valid array");
  }
  return value;
}

const Json& read_object(const Json& value, const std::string& place) {
  if (!value.is_object()) {
    refuse(place, "Input should be an object");
  }
  return value;
}

std::string place_of(const std::string& parent, std::size_t index) {
  return parent + "." + std::to_string(index);
}

}  // namespace wanrt::impl
