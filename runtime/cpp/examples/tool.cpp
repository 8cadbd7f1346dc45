#include "tool.h"

#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>

#include "flags.h"
#include "visible.h"

namespace {

int run_work(const std::string& usage, const std::function<int()>& work) {
  try {
    return work();
  } catch (const UsageError& error) {
    std::fprintf(stderr, "%s\nerror: %s\n", usage.c_str(), visible(error.what()).c_str());
    return 2;
  } catch (const wanrt::Error& error) {
    std::fprintf(stderr, "error: %s\n", visible(error.what()).c_str());
    if (!error.hint().empty()) {
      std::fprintf(stderr, "hint: %s\n", visible(error.hint()).c_str());
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", visible(error.what()).c_str());
  }
  return 1;
}

bool is_watched() { return ::isatty(STDERR_FILENO) == 1; }

bool print_loading(std::uint64_t done, std::uint64_t total) {
  constexpr double kGiga = 1e9;
  std::fprintf(stderr, "\rloading: %.1f of %.1f GB%s", static_cast<double>(done) / kGiga,
               static_cast<double>(total) / kGiga, done == total ? "\n" : "");
  return true;
}

}  // namespace

int run_tool(const std::string& usage, const std::function<int()>& work) {
  const int status = run_work(usage, work);
  if (std::fflush(stdout) != 0) {
    std::fprintf(stderr, "error: what was found can't be printed: %s\n", std::strerror(errno));
    return 1;
  }
  return status;
}

void print_version(const char* tool) {
  const std::string backends = wanrt_backends();
  std::printf("%s %s, backends: %s\n", tool, wanrt_version(),
              backends.empty() ? "none" : backends.c_str());
}

wanrt::Progress loading_progress() {
  return is_watched() ? wanrt::Progress(print_loading) : wanrt::Progress();
}

void show_steps(long done, long total) {
  if (is_watched()) {
    std::fprintf(stderr, "\rstep %s of %s%s", std::to_string(done).c_str(),
                 std::to_string(total).c_str(), done == total ? "\n" : "");
  }
}
