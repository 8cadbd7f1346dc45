#include "c_api/handles.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "error.h"

namespace wanrt::impl {

std::vector<const TensorSpec*> specs_of(const Manifest& manifest, wanrt_kind kind) {
  if (kind == WANRT_ADAPTER_INPUT) {
    return manifest.adapter_inputs();
  }
  if (kind == WANRT_INPUT) {
    return manifest.data_inputs();
  }
  if (kind == WANRT_CONTEXT_INPUT) {
    return manifest.is_split() ? list_data(*manifest.context()) : std::vector<const TensorSpec*>();
  }
  std::vector<const TensorSpec*> specs;
  for (const TensorSpec& spec : manifest.forward().outputs) {
    specs.push_back(&spec);
  }
  return specs;
}

wanrt_tensor describe(const char* name, const View& view) {
  if (view.shape.size() > WANRT_MAX_RANK) {
    throw Error(WANRT_UNSUPPORTED, std::string(name) + " has " + std::to_string(view.shape.size()) +
                                       " dimensions, libwanrt takes 8 at most");
  }
  wanrt_tensor tensor = {};
  tensor.name = name;
  tensor.dtype = view.dtype;
  tensor.memory = view.memory;
  tensor.rank = view.shape.size();
  std::copy(view.shape.begin(), view.shape.end(), std::begin(tensor.shape));
  tensor.data = view.data;
  tensor.bytes = view.bytes;
  return tensor;
}

}  // namespace wanrt::impl
