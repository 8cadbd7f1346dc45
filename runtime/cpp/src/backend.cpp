#include "backend.h"

#include <chrono>

#include "error.h"

namespace wanrt::impl {

double Backend::time_run() {
  const auto start = std::chrono::steady_clock::now();
  run(true);
  const auto end = std::chrono::steady_clock::now();
  return std::chrono::duration<double>(end - start).count();
}

Made Backend::make_outputs() {
  throw Error(WANRT_UNSUPPORTED, "this backend runs no context graph");
}

// NOLINTNEXTLINE(performance-unnecessary-value-param): a backend that can do it keeps the adapter
void Backend::merge(std::optional<Adapter> /*adapter*/) {
  throw Error(WANRT_UNSUPPORTED, "this backend can't exchange the adapter of a merged engine");
}

}  // namespace wanrt::impl
