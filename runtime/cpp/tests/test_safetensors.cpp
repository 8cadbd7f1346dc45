// safetensors files that lie about themselves.
#include <doctest/doctest.h>

#include <string>
#include <vector>

#include "error.h"
#include "safetensors.h"
#include "tiny.h"

namespace {

struct Bad {
  const char* header;
  std::uint64_t data_bytes;
  const char* problem;
};

}  // namespace

TEST_CASE("headers that are wrong") {
  const std::vector<Bad> cases = {
      {"", 0, "its header is not a JSON object"},
      {"[]", 0, "its header is not a JSON object"},
      {" {}", 0, "its header is not a JSON object"},
      {"{", 0, "not JSON"},
      {"{}", 1, "its tensors take 0 bytes, the file has 1"},
      {R"({"a": 1})", 0, "a: Input should be an object"},
      {R"({"a": {}})", 0, "a.dtype: Field required"},
      {R"({"__metadata__": {"a": 1}})", 0, "__metadata__.a: Input should be a valid string"},
      {R"({"a": {"dtype": "F7", "shape": [1], "data_offsets": [0, 4]}})", 4,
       "a: no dtype is called F7"},
      {R"({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}})", 4, "a.shape: Input"},
      {R"({"a": {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]}})", 4, "a.shape: Input"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0]}})", 4, "a.data_offsets"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}})", 4, "a: its offsets"},
      {R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}})", 4, "a: its offsets"},
      {R"({"a": {"dtype": "F4", "shape": [1], "data_offsets": [0, 1]}})", 1, "a: no tensor has"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4], "x": 1}})", 4, "a.x: Extra"},
      {R"({"a": {"dtype": "F32", "shape": [4294967296, 4294967296], "data_offsets": [0, 0]}})", 0,
       "a: no tensor has shape"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})", 8,
       "its tensors take 4 bytes, the file has 8"},
      {R"({"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})", 8, "a: its bytes don't"},
      {R"({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
           "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}})",
       8, "b: its bytes don't"},
  };
  for (const Bad& bad : cases) {
    std::string said = "nothing";
    try {
      wanrt::impl::parse_safetensors_header(bad.header, bad.data_bytes);
    } catch (const wanrt::impl::FormatError& error) {
      said = error.what();
    }
    CHECK(said.find(bad.problem) == 0);
  }
}

TEST_CASE("files that are wrong") {
  const tiny::Folder folder;
  const auto refusal = [&](const std::string& bytes) -> std::string {
    try {
      const wanrt::Tensors tensors(folder.write("x.safetensors", bytes));
    } catch (const wanrt::Error& error) {
      CHECK(error.status() == WANRT_ENGINE_ERROR);
      return std::string(error.what()).substr(folder.file("x.safetensors").size());
    }
    return "nothing";
  };
  CHECK(refusal("") == " can't be read: the file ends too early");
  CHECK(refusal(std::string(8, '\xFF')) ==
        " can't be read: its header can't have 18446744073709551615 bytes");
  CHECK(refusal(tiny::safetensors("{}", "x")) ==
        " can't be read: its tensors take 0 bytes, the file has 1");
  CHECK_THROWS_AS(wanrt::Tensors(folder.path()), wanrt::Error);
  CHECK_THROWS_AS(wanrt::Tensors("/dev/zero"), wanrt::Error);
}

TEST_CASE("tensors come aligned, in the file's order, whatever their dtype") {
  const tiny::Folder folder;
  const std::string header =
      R"({"b": {"dtype": "F32", "shape": [2], "data_offsets": [3, 11]},
          "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
          "c": {"dtype": "I64", "shape": [0, 5], "data_offsets": [11, 11]}})";
  const wanrt::Tensors file(
      folder.write("x.safetensors", tiny::safetensors(header, std::string(11, '\0'))));
  const auto tensors = file.all();
  REQUIRE(tensors.size() == 3);
  CHECK(std::string(tensors[0].name) == "a");
  CHECK(tensors[0].dtype == WANRT_OTHER);
  CHECK(tensors[1].dtype == WANRT_FP32);
  CHECK(tensors[1].sizes().size() == 1);
  CHECK(tensors[1].values<float>().size() == 2);
  CHECK(reinterpret_cast<std::uintptr_t>(tensors[1].data) % 64 == 0);
  CHECK(tensors[2].bytes == 0);
}

TEST_CASE("more dimensions than libwanrt takes") {
  const tiny::Folder folder;
  const std::string header =
      R"({"a": {"dtype": "U8", "shape": [1,1,1,1,1,1,1,1,1], "data_offsets": [0, 1]}})";
  const wanrt::Tensors file(folder.write("x.safetensors", tiny::safetensors(header, "x")));
  CHECK_THROWS_WITH(static_cast<void>(file.all()), "a has 9 dimensions, libwanrt takes 8 at most");
}
