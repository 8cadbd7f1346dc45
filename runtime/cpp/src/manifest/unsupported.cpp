#include "manifest/unsupported.h"

#include <algorithm>

namespace wanrt::impl {

namespace {

bool takes(const Manifest& manifest, Role role) {
  return std::any_of(manifest.graphs.begin(), manifest.graphs.end(), [role](const auto& entry) {
    const std::vector<TensorSpec>& inputs = entry.second.inputs;
    return std::any_of(inputs.begin(), inputs.end(),
                       [role](const TensorSpec& spec) { return spec.role == role; });
  });
}

}  // namespace

std::string find_unsupported(const Manifest& manifest) {
  if (manifest.is_split()) {
    return "has a context graph; this version runs one-graph engines";
  }
  if (manifest.cards > 1) {
    return "is split over " + std::to_string(manifest.cards) +
           " cards; this version runs engines of one card";
  }
  if (takes(manifest, Role::strengths)) {
    return "takes a strengths input; this version runs adapters at the strength they were made "
           "with";
  }
  if (!manifest.quantization.empty()) {
    return "is quantised to " + manifest.quantization + "; this version runs unquantised engines";
  }
  if (manifest.prefused) {
    return "has a prefused LoRA; this version runs engines of a base without one";
  }
  return "";
}

}  // namespace wanrt::impl
