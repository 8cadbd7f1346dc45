#include "file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "error.h"

namespace wanrt::impl {

namespace {

constexpr std::int64_t kNanoseconds = 1'000'000'000;

[[noreturn]] void fail() { throw std::system_error(errno, std::generic_category()); }

}  // namespace

// O_NONBLOCK: a named pipe must not hold the host up; it changes nothing for a regular file.
File::File(const std::string& path)
    : descriptor_(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {
  if (descriptor_ < 0) {
    fail();
  }
  struct stat facts = {};
  if (::fstat(descriptor_, &facts) != 0) {
    const int problem = errno;
    ::close(descriptor_);
    errno = problem;
    fail();
  }
  identity_ = {facts.st_dev, facts.st_ino, static_cast<std::uint64_t>(facts.st_size),
               (facts.st_mtim.tv_sec * kNanoseconds) + facts.st_mtim.tv_nsec};
  regular_ = S_ISREG(facts.st_mode);
}

File::~File() { ::close(descriptor_); }

void File::read(void* to, std::size_t bytes, std::uint64_t offset) const {
  auto* begin = static_cast<char*>(to);
  while (bytes > 0) {
    const ::ssize_t got = ::pread(descriptor_, begin, bytes, static_cast<::off_t>(offset));
    if (got < 0 && errno == EINTR) {
      continue;
    }
    if (got < 0) {
      fail();
    }
    if (got == 0) {
      throw FormatError("the file ends too early");
    }
    begin += got;
    bytes -= static_cast<std::size_t>(got);
    offset += static_cast<std::uint64_t>(got);
  }
}

}  // namespace wanrt::impl
