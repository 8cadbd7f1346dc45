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
  const bool runs = manifest.quantization == "int8" && manifest.backend == "onnxruntime";
  if (!manifest.quantization.empty() && !runs) {
    return "is quantised to " + manifest.quantization +
           "; this version runs int8 with ONNX Runtime alone";
  }
  return "";
}

}  // namespace wanrt::impl
