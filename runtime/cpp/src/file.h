// A file opened for reading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace wanrt::impl {

class File {
 public:
  explicit File(const std::string& path);  // throws std::system_error
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  File(File&&) = delete;
  File& operator=(File&&) = delete;

  [[nodiscard]] std::uint64_t size() const noexcept { return size_; }
  [[nodiscard]] std::int64_t mtime_ns() const noexcept { return mtime_ns_; }
  [[nodiscard]] bool is_regular() const noexcept { return regular_; }

  // Read exactly so many bytes. Throws std::system_error or FormatError.
  void read(void* to, std::size_t bytes, std::uint64_t offset) const;

 private:
  int descriptor_;
  std::uint64_t size_ = 0;
  std::int64_t mtime_ns_ = 0;
  bool regular_ = false;
};

}  // namespace wanrt::impl
