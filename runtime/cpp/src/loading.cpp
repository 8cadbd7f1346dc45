#include "loading.h"

#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <future>

#include "error.h"

namespace wanrt::impl {

namespace {

constexpr std::chrono::milliseconds kInterval(100);

// How much memory the process holds; 0 where the system doesn't tell. No backend tells how far it
// is, but weights in memory are what it makes: measured with ONNX Runtime, this grows with them
// evenly up to their bytes.
std::uint64_t resident_bytes() {
  std::ifstream file("/proc/self/statm");
  std::uint64_t size = 0;
  std::uint64_t resident = 0;
  file >> size >> resident;
  return resident * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
}

}  // namespace

std::unique_ptr<Backend> load_backend(const Folder& folder, const Graph& graph,
                                      const Options& options) {
  if (options.progress == nullptr) {
    return open_backend(folder, graph, options);
  }
  const auto total = static_cast<std::uint64_t>(graph.weight_bytes);
  const std::uint64_t before = resident_bytes();
  std::uint64_t done = 0;
  bool wanted = true;
  const auto tell = [&] {
    wanted = wanted && options.progress(options.progress_context, done, total) == 0;
  };
  auto loading =
      std::async(std::launch::async, [&] { return open_backend(folder, graph, options); });
  while (loading.wait_for(kInterval) != std::future_status::ready) {
    const std::uint64_t now = resident_bytes();
    done = std::max(done, std::min(total, now - std::min(now, before)));
    tell();
  }
  std::unique_ptr<Backend> backend = loading.get();
  done = total;
  tell();
  if (!wanted) {
    throw Error(WANRT_CANCELLED, folder.path + " was not loaded: the caller gave up");
  }
  return backend;
}

}  // namespace wanrt::impl
