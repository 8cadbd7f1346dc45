// A file opened for reading.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>

namespace wanrt::impl {

// What tells a file, and these bytes of it, from others.
struct FileIdentity {
  std::uint64_t device = 0, inode = 0, size = 0;
  std::int64_t mtime_ns = 0;

  bool operator<(const FileIdentity& other) const {
    return std::tie(device, inode, size, mtime_ns) <
           std::tie(other.device, other.inode, other.size, other.mtime_ns);
  }
};

class File {
 public:
  explicit File(const std::string& path);  // throws std::system_error
  ~File();
  File(const File&) = delete;
  File& operator=(const File&) = delete;
  File(File&&) = delete;
  File& operator=(File&&) = delete;

  [[nodiscard]] const FileIdentity& identity() const noexcept { return identity_; }
  [[nodiscard]] std::uint64_t size() const noexcept { return identity_.size; }
  [[nodiscard]] std::int64_t mtime_ns() const noexcept { return identity_.mtime_ns; }
  [[nodiscard]] bool is_regular() const noexcept { return regular_; }

  // Read exactly so many bytes. Throws std::system_error or FormatError.
  void read(void* to, std::size_t bytes, std::uint64_t offset) const;

 private:
  int descriptor_;
  FileIdentity identity_;
  bool regular_ = false;
};

}  // namespace wanrt::impl
