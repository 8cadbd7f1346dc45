// What wanrt-host is asked to do.
#pragma once

#include <wanrt/wanrt.h>

#include <cstdint>
#include <string>
#include <vector>

#include "flags.h"

// What is loaded before some forwards: adapters with their strengths, or other strengths alone.
struct Visit {
  std::string name;
  Adapters adapters;
  std::vector<float> strengths;  // empty: the adapters are loaded; none of both: as it is
  bool loads = false;
};

struct Arguments {
  std::string engine, inputs, workload;
  std::vector<Visit> visits;
  std::vector<std::string> goldens;
  wanrt_options options = {};
  std::uint64_t seed = 0;
  long forwards = 3;
  double tolerance = 0;
  bool info = false, version = false;
};

extern const char* const kUsage;

Arguments read_arguments(int argc, char* const* argv);
