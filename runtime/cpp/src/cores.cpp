#include "cores.h"

#include <sched.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <thread>

namespace wanrt::impl {

namespace {

namespace fs = std::filesystem;

// Threads of one core share the list of its threads. Zero if the system doesn't tell.
int physical_cores() {
  std::set<std::string> cores;
  std::error_code problem;
  const fs::directory_iterator processors("/sys/devices/system/cpu", problem);
  for (const fs::directory_entry& entry : processors) {
    std::ifstream file(entry.path() / "topology" / "core_cpus_list");
    std::string siblings;
    if (std::getline(file, siblings)) {
      cores.insert(siblings);
    }
  }
  return static_cast<int>(cores.size());
}

int processors() { return std::max(1, static_cast<int>(std::thread::hardware_concurrency())); }

// The quota of this cgroup, rounded up; all processors where there is none.
int quota() {
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  long long allowed = 0;
  long long period = 0;
  if (file >> allowed >> period && allowed > 0 && period > 0) {
    return static_cast<int>((allowed + period - 1) / period);
  }
  return processors();
}

int affinity() {
  cpu_set_t set;
  CPU_ZERO(&set);
  return sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : processors();
}

}  // namespace

int usable_cores() {
  const int cores = physical_cores();
  return std::max(1, std::min({cores > 0 ? cores : processors(), affinity(), quota()}));
}

}  // namespace wanrt::impl
