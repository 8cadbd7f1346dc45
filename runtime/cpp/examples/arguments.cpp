#include "arguments.h"

#include <getopt.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <iterator>
#include <sstream>

const char* const kUsage =
    "usage: wanrt-host [options] ENGINE\n"
    "\n"
    "Run forwards of an engine folder and print tokens per second.\n"
    "\n"
    "  --info             tell what the engine is, without loading it\n"
    "  --inputs FILE      inputs by name, safetensors\n"
    "  --seed N           of random inputs otherwise; not those of `wanrt run` [0]\n"
    "  --forwards N       forwards that are timed, after one that isn't [3]\n"
    "  --adapter FILE[:S][,FILE[:S]...]\n"
    "                     canonical adapters with their strengths, side by side, or `base`;\n"
    "                     repeat it to switch between forwards\n"
    "  --strengths S[,S...]\n"
    "                     other strengths for the adapters before it, without loading any\n"
    "  --golden FILE      expected outputs, safetensors; the n-th for the n-th of these two\n"
    "  --tolerance X      relative L2 distance that they may have [0: equal bit by bit]\n"
    "  --workload NAME    whose shapes and tokens count; the first by default\n"
    "  --threads N        of the engine's pool; one per core by default\n"
    "  --device cpu|cuda  where to run [cpu]\n"
    "  --mapped           leave weights in the files' pages\n"
    "  --no-graph         without a CUDA graph (TensorRT)\n"
    "  --version\n";

namespace {

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

Visit read_adapters(const std::string& text) {
  Visit visit;
  visit.name = text;
  visit.loads = true;
  if (text == "base") {
    return visit;
  }
  const auto parts = std::filesystem::exists(text) ? std::vector{text} : split(text);
  std::transform(parts.begin(), parts.end(), std::back_inserter(visit.adapters), read_adapter);
  return visit;
}

Visit read_strengths(const std::string& text) {
  Visit visit;
  visit.name = "strengths " + text;
  const auto parts = split(text);
  std::transform(parts.begin(), parts.end(), std::back_inserter(visit.strengths), read_strength);
  return visit;
}

wanrt_device read_device(const std::string& text) {
  if (text != "cpu" && text != "cuda") {
    throw UsageError("'" + text + "' isn't a device: cpu or cuda");
  }
  return text == "cuda" ? WANRT_CUDA : WANRT_CPU;
}

}  // namespace

Arguments read_arguments(int argc, char* const* argv) {
  const option known[] = {{"info", no_argument, nullptr, 'i'},
                          {"inputs", required_argument, nullptr, 'f'},
                          {"seed", required_argument, nullptr, 's'},
                          {"forwards", required_argument, nullptr, 'n'},
                          {"adapter", required_argument, nullptr, 'a'},
                          {"strengths", required_argument, nullptr, 'r'},
                          {"golden", required_argument, nullptr, 'g'},
                          {"tolerance", required_argument, nullptr, 't'},
                          {"workload", required_argument, nullptr, 'w'},
                          {"threads", required_argument, nullptr, 'c'},
                          {"device", required_argument, nullptr, 'd'},
                          {"mapped", no_argument, nullptr, 'm'},
                          {"no-graph", no_argument, nullptr, 'p'},
                          {"version", no_argument, nullptr, 'v'},
                          {nullptr, 0, nullptr, 0}};
  opterr = 0;
  Arguments arguments;
  int index = 0;
  for (int flag = 0; (flag = getopt_long(argc, argv, "", known, &index)) != -1;) {
    if (optarg != nullptr && *optarg == '\0') {
      throw UsageError("--" + std::string(known[index].name) + " is empty");
    }
    switch (flag) {
      case 'i':
        arguments.info = true;
        break;
      case 'f':
        arguments.inputs = optarg;
        break;
      case 's':
        arguments.seed = static_cast<std::uint64_t>(read_count(optarg, 0, INT32_MAX));
        break;
      case 'n':
        arguments.forwards = read_count(optarg, 1, INT32_MAX);
        break;
      case 'a':
        arguments.visits.push_back(read_adapters(optarg));
        break;
      case 'r':
        arguments.visits.push_back(read_strengths(optarg));
        break;
      case 'g':
        arguments.goldens.emplace_back(optarg);
        break;
      case 't':
        arguments.tolerance = read_number(optarg);
        break;
      case 'w':
        arguments.workload = optarg;
        break;
      case 'c':
        arguments.options.threads = static_cast<int>(read_count(optarg, 1, 1024));
        break;
      case 'd':
        arguments.options.device = read_device(optarg);
        break;
      case 'm':
        arguments.options.mapped = 1;
        break;
      case 'p':
        arguments.options.no_graph = 1;
        break;
      case 'v':
        arguments.version = true;
        break;
      default:
        throw UsageError("no such option, or its value is missing");
    }
  }
  if (!arguments.version && optind + 1 != argc) {
    throw UsageError("name one engine folder");
  }
  if (arguments.visits.empty()) {
    arguments.visits.emplace_back();
    arguments.visits.back().name = "forward";
  }
  if (!arguments.goldens.empty() && arguments.goldens.size() != arguments.visits.size()) {
    throw UsageError("give one --golden per --adapter or --strengths, or none");
  }
  arguments.engine = arguments.version ? "" : argv[optind];
  if (!arguments.version && arguments.engine.empty()) {
    throw UsageError("the engine folder's name is empty");
  }
  return arguments;
}
