// Files in the pages of the system's cache.
#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "manifest/folder.h"

namespace wanrt::impl {

// A whole file, to be read only. Throws Error.
class Mapping {
 public:
  explicit Mapping(const std::string& path);
  ~Mapping();
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  Mapping(Mapping&&) = delete;
  Mapping& operator=(Mapping&&) = delete;

  [[nodiscard]] const std::byte* data() const noexcept { return data_; }
  [[nodiscard]] std::size_t size() const noexcept { return size_; }

 private:
  const std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

// The weight files of a folder, each mapped when something of it is first asked for. What they
// return may begin at any byte: a tensor isn't aligned in its file.
class MappedWeights {
 public:
  explicit MappedWeights(const Folder& folder) : folder_(folder) {}

  const std::byte* at(const WeightRange& range);

 private:
  const Folder& folder_;
  std::map<std::string, Mapping> files_;
};

}  // namespace wanrt::impl
