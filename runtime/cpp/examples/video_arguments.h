// What wanrt-video is asked to do.
#pragma once

#include <wanrt/wanrt.h>

#include <optional>
#include <string>
#include <vector>

#include "flags.h"

// One video: the file that says what is to be computed, where its latents go, and the adapters that
// each engine loads before it; where none are named, what is loaded stays.
struct VideoJob {
  std::string video, out;
  std::optional<Adapters> adapters, low_adapters;
};

struct VideoArguments {
  std::vector<std::string> engines;  // one, or of a Wan2.2 pair the high-noise engine and the other
  std::vector<VideoJob> jobs;
  wanrt_options options = {};
  bool version = false;
};

extern const char* const kVideoUsage;

// Throws UsageError.
VideoArguments read_video_arguments(int argc, char* const* argv);
