// What a host passes to the C ABI, checked. Everything throws Error(WANRT_USAGE_ERROR).
#pragma once

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "backend.h"
#include "manifest/manifest.h"
#include "tensors.h"
#include "wanrt/wanrt.h"

namespace wanrt::impl {

// Options as they are meant; null: the defaults.
Options read_options(const wanrt_options* given);

// Tensors by name, of a kind that errors name. Of more than are `known` none is looked at:
// a count that is wrong must not be followed through memory.
std::map<std::string, View> read_views(const wanrt_tensor* tensors, std::size_t count,
                                       const std::vector<const TensorSpec*>& known,
                                       const std::string& kind);

// Adapters with their strengths, and strengths alone; of more than kMaxAdapters none is looked at.
std::vector<wanrt_adapter> read_adapters(const wanrt_adapter* adapters, std::size_t count);
std::vector<float> read_strengths(const float* strengths, std::size_t count);

}  // namespace wanrt::impl
