// Whether memory that a caller binds is what an engine's inputs and outputs take.
#pragma once

#include <map>
#include <string>

#include "manifest/plan.h"
#include "tensors.h"

namespace wanrt::impl {

// Check dtype, bytes and memory; `kind` is `input` or `output`. Throws Error.
void check_memory(const char* kind, const TensorSpec& spec, const View& view, wanrt_device device);

// Check that an output is the shape that the inputs' sizes make it, too.
void check_output(const TensorSpec& spec, const View& view, const Symbols& symbols,
                  wanrt_device device);

// Check that nothing is written that is also read or written as something else: no two outputs
// share a byte, none shares one with an input, and neither with `own`, what the engine keeps for
// outputs that it has memory for itself. Inputs may share theirs. Throws Error.
void check_apart(const std::map<std::string, View>& inputs,
                 const std::map<std::string, View>& outputs,
                 const std::map<std::string, View>& own);

}  // namespace wanrt::impl
