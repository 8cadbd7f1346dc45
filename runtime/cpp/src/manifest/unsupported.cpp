#include "manifest/unsupported.h"

namespace wanrt::impl {

std::string find_unsupported(const Manifest& manifest) {
  if (manifest.is_split() && manifest.backend != "onnxruntime") {
    return "has a context graph; this version runs those with onnxruntime, not " + manifest.backend;
  }
  if (manifest.cards > 1) {
    return "is split over " + std::to_string(manifest.cards) +
           " cards; this version runs engines of one card";
  }
  const std::string& scheme = manifest.quantization;
  const bool compiled = scheme == "fp8" && manifest.backend != "onnxruntime";
  if (!scheme.empty() && scheme != "int8" && !compiled) {
    return "is quantised to " + scheme + "; this version runs int8, and fp8 with TensorRT";
  }
  return "";
}

}  // namespace wanrt::impl
