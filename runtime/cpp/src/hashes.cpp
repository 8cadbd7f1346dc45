#include "hashes.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "error.h"

namespace wanrt::impl {

namespace {

constexpr std::uint64_t kBlockBytes = 4U << 20U;

struct FreeContext {
  void operator()(EVP_MD_CTX* context) const noexcept { EVP_MD_CTX_free(context); }
};

// OpenSSL fails where there is no memory, or where its configuration forbids SHA-256.
void check(int succeeded) {
  if (succeeded != 1) {
    throw Error(WANRT_UNSUPPORTED, "OpenSSL can't compute SHA-256");
  }
}

std::string to_hex(const unsigned char* bytes, unsigned size) {
  constexpr const char* kDigits = "0123456789abcdef";
  std::string text;
  std::for_each(bytes, bytes + size, [&](unsigned char byte) {
    text += kDigits[byte >> 4U];
    text += kDigits[byte & 0xFU];
  });
  return text;
}

}  // namespace

std::string sha256_file(const File& file) {
  const std::unique_ptr<EVP_MD_CTX, FreeContext> context(EVP_MD_CTX_new());
  check(context ? EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr) : 0);
  std::vector<unsigned char> block(std::min(file.size(), kBlockBytes));
  for (std::uint64_t offset = 0; offset < file.size(); offset += block.size()) {
    const std::uint64_t bytes = std::min<std::uint64_t>(file.size() - offset, block.size());
    file.read(block.data(), bytes, offset);
    check(EVP_DigestUpdate(context.get(), block.data(), bytes));
  }
  std::array<unsigned char, EVP_MAX_MD_SIZE> digest = {};
  unsigned size = 0;
  check(EVP_DigestFinal_ex(context.get(), digest.data(), &size));
  return to_hex(digest.data(), size);
}

}  // namespace wanrt::impl
