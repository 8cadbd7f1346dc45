// What benchmarks/cpp_host.py measures of libwanrt, in a process of its own. Prints one line:
//   manifest FOLDER    seconds and anonymous bytes that reading and checking the folder takes
//   open FOLDER        the same of opening the engine, weights left in the files' pages
//   serve FOLDER FILE  opens it, binds the inputs, and for each line of stdin binds them again and
//                      runs a forward: seconds of both calls, of the forward's call, of its backend
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <wanrt/wanrt.hpp>

namespace {

using Clock = std::chrono::steady_clock;

double since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

// This process's anonymous memory; mapped file pages don't count.
long anonymous_bytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string word; file >> word;) {
    if (word == "Anonymous:") {
      long kilobytes = 0;
      file >> kilobytes;
      return kilobytes << 10;
    }
  }
  return -1;
}

void print_cost(Clock::time_point start, long before) {
  const double seconds = since(start);
  std::printf("%.9g %ld\n", seconds, anonymous_bytes() - before);
}

void serve(const std::string& folder, const std::string& path) {
  wanrt::Engine engine(folder);
  const wanrt::Tensors file(path);
  const auto inputs = file.all();
  for (std::string line; std::getline(std::cin, line);) {
    const auto start = Clock::now();
    engine.bind(inputs);
    const auto bound = Clock::now();
    const double backend = engine.time_forward();
    std::printf("%.9g %.9g %.9g\n", since(start), since(bound), backend);
    std::fflush(stdout);
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    return 2;
  }
  const std::string command = argv[1];
  try {
    const long before = anonymous_bytes();
    const auto start = Clock::now();
    if (command == "manifest") {
      const wanrt::Manifest manifest(argv[2]);
      print_cost(start, before);
    } else if (command == "open") {
      wanrt_options options = {};
      options.mapped = 1;
      const wanrt::Engine engine(argv[2], options);
      print_cost(start, before);
    } else if (command == "serve" && argc == 4) {
      serve(argv[2], argv[3]);
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 1;
  }
  return 0;
}
