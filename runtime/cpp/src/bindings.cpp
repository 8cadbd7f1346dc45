#include "bindings.h"

#include <functional>
#include <utility>
#include <vector>

#include "error.h"

namespace wanrt::impl {

namespace {

[[noreturn]] void refuse(const std::string& message, const std::string& hint = "") {
  throw Error(WANRT_ENGINE_ERROR, message, hint);
}

bool overlap(const View& one, const View& other) {
  const auto begin = [](const View& view) { return static_cast<const std::byte*>(view.data); };
  const std::less<> before;  // of pointers into different memory `<` says nothing
  return one.bytes > 0 && other.bytes > 0 && before(begin(one), begin(other) + other.bytes) &&
         before(begin(other), begin(one) + one.bytes);
}

// Memory that forwards write, by what errors call it.
using Written = std::vector<std::pair<std::string, const View*>>;

void check_unwritten(const std::string& what, const View& view, const Written& written) {
  for (const auto& [other, taken] : written) {
    if (overlap(view, *taken)) {
      std::string problem = what;
      problem.append(" shares memory with ").append(other);
      refuse(problem, "give every output memory of its own");
    }
  }
}

}  // namespace

void check_memory(const char* kind, const TensorSpec& spec, const View& view, wanrt_device device) {
  if (view.dtype != spec.dtype) {
    refuse(std::string(kind) + " " + spec.name + " is " + dtype_name(view.dtype) +
           ", the engine takes " + dtype_name(spec.dtype));
  }
  const auto bytes = tensor_bytes(view.shape, dtype_bytes(view.dtype));
  if (!bytes || *bytes != view.bytes) {
    refuse(std::string(kind) + " " + spec.name + " has " + std::to_string(view.bytes) +
           " bytes, its shape " + show_shape(view.shape) + " takes " +
           (bytes ? std::to_string(*bytes) : "more than there can be"));
  }
  if (view.data == nullptr && view.bytes > 0) {
    refuse(std::string(kind) + " " + spec.name + " has no memory");
  }
  if (view.memory == WANRT_DEVICE && device == WANRT_CPU) {
    refuse(std::string(kind) + " " + spec.name + " is in device memory, the engine runs on a CPU",
           "give it host memory, or open the engine with the device WANRT_CUDA");
  }
}

void check_output(const TensorSpec& spec, const View& view, const Symbols& symbols,
                  wanrt_device device) {
  const Shape shape = resolve_shape(spec.shape, symbols);
  if (!is_known(shape)) {
    refuse("output " + spec.name + " has shape " + show_shape(spec.shape, symbols) +
               ", which the inputs don't tell",
           "bind no memory to it, and ask for it after a forward");
  }
  check_memory("output", spec, view, device);
  if (shape != view.shape) {
    refuse("output " + spec.name + " has shape " + show_shape(view.shape) + ", the engine writes " +
           show_shape(shape));
  }
}

void check_apart(const std::map<std::string, View>& inputs,
                 const std::map<std::string, View>& outputs,
                 const std::map<std::string, View>& own) {
  Written written;
  for (const auto& [name, view] : own) {
    written.emplace_back("the engine's own output " + name, &view);
  }
  for (const auto& [name, view] : outputs) {
    check_unwritten("output " + name, view, written);
    written.emplace_back("output " + name, &view);
  }
  for (const auto& [name, view] : inputs) {
    check_unwritten("input " + name, view, written);
  }
}

}  // namespace wanrt::impl
