// JSON that other readers let pass.
#include <doctest/doctest.h>

#include <string>
#include <utility>
#include <vector>

#include "error.h"
#include "manifest/json.h"

namespace {

using wanrt::impl::FormatError;
using wanrt::impl::Json;
using wanrt::impl::Object;
using wanrt::impl::parse_json;

}  // namespace

TEST_CASE("JSON is strict") {
  const std::string deep = std::string(201, '[') + std::string(201, ']');
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not JSON: "},
      {"{} x", "not JSON: "},
      {"// c\n{}", "not JSON: "},
      {"{\"a\": NaN}", "not JSON: "},
      {"{\"a\": 1e999}", "not JSON: "},
      {"\"\xFF\"", "not JSON: it isn't UTF-8"},
      {"\xFF", "not JSON: it isn't UTF-8"},
      {"\"\\ud800\"", "not JSON: "},
      {"\xEF\xBB\xBF{}", "not JSON: it begins with a byte order mark"},
      {"{\"a\": {\"b\": 1, \"c\": [], \"b\": 2}}", "not JSON: key b is there twice"},
      {"[{\"a\": 1}, {\"a\": 1}, {\"a\": 1, \"a\": 1}]", "not JSON: key a is there twice"},
      {deep, "not JSON: it is nested too deeply"},
      {std::string(1U << 20U, '['), "not JSON: it is nested too deeply"},
  };
  for (const auto& [text, problem] : cases) {
    std::string said = "nothing";
    try {
      parse_json(text);
    } catch (const FormatError& error) {
      said = error.what();
    }
    CHECK(said.substr(0, problem.size()) == problem);
  }
  CHECK_NOTHROW(parse_json(deep.substr(1, 400)));
}

TEST_CASE("objects refuse what nobody asked for") {
  const Json json = Json::parse(R"({"count": 3, "text": "a", "flag": 1, "deep": {"x": 1.0}})");
  Object object(json, "");
  CHECK(object.count("count") == 3);
  CHECK_THROWS_WITH(object.count("count", 4), "count: Input should be greater than or equal to 4");
  CHECK_THROWS_WITH(object.count("text"), "text: Input should be a valid integer");
  CHECK_THROWS_WITH(object.text("count"), "count: Input should be a valid string");
  CHECK_THROWS_WITH(object.flag("flag"), "flag: Input should be a valid boolean");
  CHECK_THROWS_WITH(object.choice("text", {"b", "c"}), "text: Input should be one of 'b', 'c'");
  CHECK_THROWS_WITH(object.text("none"), "none: Field required");
  Object deep(object.need("deep"), object.place("deep"));
  CHECK_THROWS_WITH(deep.count("x"), "deep.x: Input should be a valid integer");
  CHECK_NOTHROW(deep.done());
  CHECK_NOTHROW(object.done());
  CHECK_THROWS_WITH(Object(json, "a").done(), "a.count: Extra inputs are not permitted");
}

TEST_CASE("integers fit into 63 bits") {
  const Json json = Json::parse(R"([9223372036854775807, 9223372036854775808, -1, 1e30])");
  CHECK(wanrt::impl::read_count(json[0], "n") == INT64_MAX);
  CHECK_THROWS_AS(wanrt::impl::read_count(json[1], "n"), FormatError);
  CHECK_THROWS_AS(wanrt::impl::read_count(json[2], "n"), FormatError);
  CHECK_THROWS_AS(wanrt::impl::read_count(json[3], "n"), FormatError);
}
