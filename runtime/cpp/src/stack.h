// Stacks: canonical adapters side by side in an engine's slots, each with a strength of its own.
// Each has one range of rows of A and columns of B in every module, as wide as its largest rank.
#pragma once

#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "adapter.h"
#include "manifest/folder.h"
#include "tensors.h"

namespace wanrt::impl {

struct Stacked {
  std::string path;
  Adapter matrices;
  wanrt_dtype dtype = WANRT_OTHER;  // of all its matrices
  std::int64_t rank = 0;            // the largest of a module
  float strength = 1;
};

using Stack = std::vector<Stacked>;

// Read and check adapters, `path` and `strength` of each; nothing is returned unless all of them
// fit together. `checked` as in read_adapter. Throws Error(WANRT_ADAPTER_ERROR).
Stack read_stack(const std::vector<wanrt_adapter>& adapters, const Folder& folder,
                 std::set<FileIdentity>& checked);

// Change a stack's strengths, one for each adapter; none is changed unless all can be.
// Throws Error(WANRT_ADAPTER_ERROR).
void set_strengths(Stack& stack, const std::vector<float>& strengths);

// Write an adapter input's values, or the strengths: each adapter's into its slots, else zeros.
void write_slots(const Stack& stack, const TensorSpec& spec, const View& view);

// One A [r, in] and B [out, r] in fp32 per module, with strengths folded into B: what is merged.
Adapter fold(const Stack& stack, const std::vector<const TensorSpec*>& inputs);

}  // namespace wanrt::impl
