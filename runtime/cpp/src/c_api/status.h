// What every function of the C ABI begins and ends with: arguments that must be there, and failures
// as a status and two lines. No exception passes.
#pragma once

#include <cstddef>
#include <exception>
#include <new>
#include <string>

#include "error.h"
#include "wanrt/wanrt.h"

namespace wanrt::impl {

// Fill the caller's error, which may be null, and return the status.
wanrt_status report(wanrt_error* error, wanrt_status status, const char* message,
                    const char* hint = "") noexcept;

// Run a function's body and make a status of however it ends.
template <typename Body>
wanrt_status guard(wanrt_error* error, Body body) noexcept {
  try {
    body();
    return report(error, WANRT_OK, "");
  } catch (const Error& problem) {
    return report(error, problem.status(), problem.what(), problem.hint().c_str());
  } catch (const std::bad_alloc&) {
    return report(error, WANRT_OUT_OF_MEMORY, "out of memory");
  } catch (const std::exception& problem) {
    return report(error, WANRT_INTERNAL_ERROR, problem.what());
  } catch (...) {
    return report(error, WANRT_INTERNAL_ERROR, "unknown exception");
  }
}

// The host's mistakes. Everything throws Error(WANRT_USAGE_ERROR).
[[noreturn]] void refuse_usage(const std::string& message, const std::string& hint = "");

template <typename Pointer>
void require(Pointer pointer, const std::string& name) {
  if (pointer == nullptr) {
    refuse_usage(name + " is a null pointer");
  }
}

void require_index(std::size_t index, std::size_t count, const char* kind);

// A path or name must be there, and not be empty as an unset variable of a shell is.
std::string require_text(const char* text, const char* name);

}  // namespace wanrt::impl
