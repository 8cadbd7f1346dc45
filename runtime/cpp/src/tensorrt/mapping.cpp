#include "tensorrt/mapping.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "error.h"

namespace wanrt::impl {

Mapping::Mapping(const std::string& path) {
  const int descriptor = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  struct stat facts = {};
  void* data = MAP_FAILED;
  if (descriptor >= 0 && ::fstat(descriptor, &facts) == 0 && S_ISREG(facts.st_mode)) {
    size_ = static_cast<std::size_t>(facts.st_size);
    data = size_ == 0 ? nullptr : ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, descriptor, 0);
  }
  if (descriptor >= 0 && !S_ISREG(facts.st_mode)) {
    errno = EINVAL;
  }
  const std::error_code problem(errno, std::generic_category());
  if (descriptor >= 0) {
    ::close(descriptor);
  }
  if (data == MAP_FAILED) {
    throw Error(WANRT_ENGINE_ERROR, path + " can't be mapped: " + problem.message());
  }
  data_ = static_cast<const std::byte*>(data);
}

Mapping::~Mapping() {
  if (data_ != nullptr) {
    ::munmap(const_cast<std::byte*>(data_), size_);
  }
}

const std::byte* MappedWeights::at(const WeightRange& range) {
  if (range.bytes == 0) {
    return nullptr;
  }
  auto found = files_.find(range.file);
  if (found == files_.end()) {
    found = files_.try_emplace(range.file, folder_.path + "/" + range.file).first;
  }
  // sizes were checked with the manifest; a file that shrank since must not be read past its end
  const Mapping& file = found->second;
  const auto begin = static_cast<std::size_t>(range.offset);
  const auto bytes = static_cast<std::size_t>(range.bytes);
  if (begin > file.size() || bytes > file.size() - begin) {
    throw Error(WANRT_ENGINE_ERROR, folder_.path + "/" + range.file + " has become shorter",
                "rebuild the engine with --force");
  }
  return file.data() + begin;
}

}  // namespace wanrt::impl
