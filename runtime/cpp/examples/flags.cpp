#include "flags.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <sstream>

const char* const kEngineFlagsUsage =
    "  --threads N        of the engine's pool; one per core by default\n"
    "  --device cpu|cuda  where to run [cpu]\n"
    "  --mapped           leave weights in the files' pages\n"
    "  --no-graph         without a CUDA graph (TensorRT)\n"
    "  --version\n";

namespace {

wanrt_device read_device(const std::string& text) {
  if (text != "cpu" && text != "cuda") {
    throw UsageError("'" + text + "' isn't a device: cpu or cuda");
  }
  return text == "cuda" ? WANRT_CUDA : WANRT_CPU;
}

float read_strength(const std::string& text) {
  char* end = nullptr;
  const float number = std::strtof(text.c_str(), &end);
  if (text.empty() || *end != '\0') {
    throw UsageError("'" + text + "' isn't a strength");
  }
  return number;
}

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) {
    parts.push_back(part);
  }
  return parts;
}

// FILE[:STRENGTH]; a colon inside the path is fine.
std::pair<std::string, float> read_adapter(const std::string& text) {
  const std::string end = ".safetensors";
  const std::size_t colon = text.rfind(':');
  const bool whole =
      text.size() >= end.size() && text.compare(text.size() - end.size(), end.size(), end) == 0;
  if (colon == std::string::npos || colon == 0 || whole || std::filesystem::exists(text)) {
    return {text, 1.0F};
  }
  return {text.substr(0, colon), read_strength(text.substr(colon + 1))};
}

}  // namespace

std::vector<option> with_engine_flags(std::vector<option> own) {
  own.insert(own.end(), {{"threads", required_argument, nullptr, 'c'},
                         {"device", required_argument, nullptr, 'd'},
                         {"mapped", no_argument, nullptr, 'm'},
                         {"no-graph", no_argument, nullptr, 'p'},
                         {"version", no_argument, nullptr, 'v'},
                         {nullptr, 0, nullptr, 0}});
  return own;
}

bool read_engine_flag(int flag, const char* value, wanrt_options& options) {
  switch (flag) {
    case 'c':
      options.threads = static_cast<int>(read_count(value, 1, 1024));
      return true;
    case 'd':
      options.device = read_device(value);
      return true;
    case 'm':
      options.mapped = 1;
      return true;
    case 'p':
      options.no_graph = 1;
      return true;
    default:
      return false;
  }
}

long read_count(const char* text, long least, long most) {
  char* end = nullptr;
  errno = 0;
  const long count = std::strtol(text, &end, 10);
  if (end == text || *end != '\0' || errno != 0 || count < least || count > most) {
    throw UsageError("'" + std::string(text) + "' isn't a whole number from " +
                     std::to_string(least) + " to " + std::to_string(most));
  }
  return count;
}

double read_number(const char* text) {
  char* end = nullptr;
  const double number = std::strtod(text, &end);
  if (end == text || *end != '\0' || !std::isfinite(number) || number < 0) {
    throw UsageError("'" + std::string(text) + "' isn't a number from 0 on");
  }
  return number;
}

std::vector<float> read_strengths(const std::string& text) {
  std::vector<float> strengths;
  const auto parts = split(text);
  std::transform(parts.begin(), parts.end(), std::back_inserter(strengths), read_strength);
  return strengths;
}

Adapters read_adapters(const std::string& text) {
  Adapters adapters;
  if (text == "base") {
    return adapters;
  }
  const auto parts = std::filesystem::exists(text) ? std::vector{text} : split(text);
  std::transform(parts.begin(), parts.end(), std::back_inserter(adapters), read_adapter);
  return adapters;
}

int next_flag(int argc, char* const* argv, const std::vector<option>& known) {
  opterr = 0;
  int index = 0;
  const int flag = getopt_long(argc, argv, "", known.data(), &index);
  if (flag == '?') {
    throw UsageError("no such option, or its value is missing");
  }
  if (flag != -1 && optarg != nullptr && *optarg == '\0') {
    throw UsageError("--" + std::string(known[static_cast<std::size_t>(index)].name) + " is empty");
  }
  return flag;
}
