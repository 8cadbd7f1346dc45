#include "video_arguments.h"

#include <algorithm>
#include <utility>

const char* const kVideoUsage =
    "usage: wanrt-video [options] ENGINE [LOW_NOISE_ENGINE] --video FILE --out FILE\n"
    "\n"
    "Run all steps of a video that `python -m wanexport.pipelines.embed` prepared and write its\n"
    "latents, which `python -m wanexport.pipelines.decode` turns into frames.\n"
    "\n"
    "  --video FILE       what to compute, safetensors; repeat it for several videos\n"
    "  --out FILE         where the latents go; the n-th for the n-th video\n"
    "  --adapter FILE[:S][,FILE[:S]...]\n"
    "                     canonical adapters with their strengths, side by side, or `base`: "
    "loaded\n"
    "                     before the next --video, and kept for those after it\n"
    "  --low-adapter ...  the same for the low-noise engine of a pair\n";

namespace {

std::vector<option> known_flags() {
  return with_engine_flags({{"video", required_argument, nullptr, 'i'},
                            {"out", required_argument, nullptr, 'o'},
                            {"adapter", required_argument, nullptr, 'a'},
                            {"low-adapter", required_argument, nullptr, 'l'}});
}

// Takes the flags; jobs without a video or an --out are for `check` to see.
class Reader {
 public:
  void take(int flag, const char* value) {
    if (flag == 'i') {
      next_.video = value;
      read_.jobs.push_back(next_);
      next_ = {};
    } else if (flag == 'o') {
      outs_.emplace_back(value);
    } else if (flag == 'a') {
      next_.adapters = read_adapters(value);
    } else if (flag == 'l') {
      next_.low_adapters = read_adapters(value);
    } else if (flag == 'v') {
      read_.version = true;
    } else {
      read_engine_flag(flag, value, read_.options);
    }
  }

  VideoArguments finish(std::vector<std::string> engines) {
    read_.engines = std::move(engines);
    if (read_.version) {
      return read_;
    }
    if (read_.engines.empty() || read_.engines.size() > 2 || read_.engines.front().empty()) {
      throw UsageError("name one engine folder, or two of a Wan2.2 pair");
    }
    if (read_.jobs.empty()) {
      throw UsageError("name a --video");
    }
    if (next_.adapters || next_.low_adapters) {
      throw UsageError("no --video comes after the last adapters");
    }
    if (read_.engines.size() == 1 && has_low_adapters()) {
      throw UsageError("--low-adapter is for the second engine of a pair");
    }
    if (outs_.size() != read_.jobs.size()) {
      throw UsageError("give one --out per --video");
    }
    for (std::size_t i = 0; i < outs_.size(); ++i) {
      read_.jobs[i].out = outs_[i];
    }
    return read_;
  }

 private:
  [[nodiscard]] bool has_low_adapters() const {
    return std::any_of(read_.jobs.begin(), read_.jobs.end(),
                       [](const VideoJob& job) { return job.low_adapters.has_value(); });
  }

  VideoArguments read_;
  VideoJob next_;
  std::vector<std::string> outs_;
};

}  // namespace

VideoArguments read_video_arguments(int argc, char* const* argv) {
  const std::vector<option> known = known_flags();
  Reader reader;
  for (int flag = 0; (flag = next_flag(argc, argv, known)) != -1;) {
    reader.take(flag, optarg);
  }
  return reader.finish(std::vector<std::string>(argv + optind, argv + argc));
}
