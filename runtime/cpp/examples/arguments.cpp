#include "arguments.h"

#include <cstdint>

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
    "  --workload NAME    whose shapes and tokens count; the first by default\n";

namespace {

std::vector<option> known_flags() {
  return with_engine_flags({{"info", no_argument, nullptr, 'i'},
                            {"inputs", required_argument, nullptr, 'f'},
                            {"seed", required_argument, nullptr, 's'},
                            {"forwards", required_argument, nullptr, 'n'},
                            {"adapter", required_argument, nullptr, 'a'},
                            {"strengths", required_argument, nullptr, 'r'},
                            {"golden", required_argument, nullptr, 'g'},
                            {"tolerance", required_argument, nullptr, 't'},
                            {"workload", required_argument, nullptr, 'w'}});
}

Visit visit_adapters(const std::string& text) {
  Visit visit;
  visit.name = text;
  visit.loads = true;
  visit.adapters = read_adapters(text);
  return visit;
}

Visit visit_strengths(const std::string& text) {
  Visit visit;
  visit.name = "strengths " + text;
  visit.strengths = read_strengths(text);
  return visit;
}

void read_flag(int flag, const char* value, Arguments& arguments) {
  switch (flag) {
    case 'i':
      arguments.info = true;
      break;
    case 'f':
      arguments.inputs = value;
      break;
    case 's':
      arguments.seed = static_cast<std::uint64_t>(read_count(value, 0, INT32_MAX));
      break;
    case 'n':
      arguments.forwards = read_count(value, 1, INT32_MAX);
      break;
    case 'a':
      arguments.visits.push_back(visit_adapters(value));
      break;
    case 'r':
      arguments.visits.push_back(visit_strengths(value));
      break;
    case 'g':
      arguments.goldens.emplace_back(value);
      break;
    case 't':
      arguments.tolerance = read_number(value);
      break;
    case 'w':
      arguments.workload = value;
      break;
    case 'v':
      arguments.version = true;
      break;
    default:
      read_engine_flag(flag, value, arguments.options);
  }
}

}  // namespace

Arguments read_arguments(int argc, char* const* argv) {
  const std::vector<option> known = known_flags();
  Arguments arguments;
  for (int flag = 0; (flag = next_flag(argc, argv, known)) != -1;) {
    read_flag(flag, optarg, arguments);
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
