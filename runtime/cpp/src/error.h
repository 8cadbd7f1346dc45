// What a user of the library can meet: what is wrong, where, and what to do about it.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

#include "wanrt/wanrt.h"

namespace wanrt::impl {

class Error : public std::runtime_error {
 public:
  Error(wanrt_status status, const std::string& message, std::string hint = "")
      : std::runtime_error(message), status_(status), hint_(std::move(hint)) {}

  [[nodiscard]] wanrt_status status() const noexcept { return status_; }
  [[nodiscard]] const std::string& hint() const noexcept { return hint_; }

 private:
  wanrt_status status_;
  std::string hint_;
};

// A file's content isn't what its format allows. Whoever knows the file's part makes it an Error.
class FormatError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

}  // namespace wanrt::impl
