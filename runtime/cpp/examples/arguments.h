// What wanrt-host is asked to do.
#pragma once

#include <wanrt/wanrt.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

class UsageError : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct Arguments {
  std::string engine, inputs, workload;
  std::vector<std::string> adapters, goldens;
  wanrt_options options = {};
  std::uint64_t seed = 0;
  long forwards = 3;
  double tolerance = 0;
  bool info = false, version = false;
};

extern const char* const kUsage;

Arguments read_arguments(int argc, char* const* argv);
