#include "c_api/arguments.h"

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <limits>
#include <utility>

#include "c_api/status.h"

namespace wanrt::impl {

namespace {

constexpr int kMaxThreads = 1024;
constexpr std::size_t kMaxAdapters = 1024;

bool read_flag(int value, const char* name) {
  if (value != 0 && value != 1) {
    refuse_usage(std::string(name) + " is " + std::to_string(value) + ", neither 0 nor 1");
  }
  return value == 1;
}

void check_shape(const wanrt_tensor& tensor) {
  const std::string name = tensor.name;
  if (tensor.rank > WANRT_MAX_RANK) {
    refuse_usage(name + " has rank " + std::to_string(tensor.rank) + ", the most is 8");
  }
  const auto* const end = std::begin(tensor.shape) + tensor.rank;
  const auto* const size =
      std::find_if(std::begin(tensor.shape), end, [](std::int64_t one) { return one < 0; });
  if (size != end) {
    refuse_usage(name + " has a size of " + std::to_string(*size) + " in its shape");
  }
}

// Values that no tensor can have, whatever the engine takes.
void check_tensor(const wanrt_tensor& tensor) {
  check_shape(tensor);
  const std::string name = tensor.name;
  if (tensor.memory != WANRT_HOST && tensor.memory != WANRT_DEVICE) {
    refuse_usage(name + " is in memory " + std::to_string(tensor.memory) +
                 ", neither WANRT_HOST nor WANRT_DEVICE");
  }
  const auto address = reinterpret_cast<std::uintptr_t>(tensor.data);
  if (tensor.bytes > std::numeric_limits<std::uintptr_t>::max() - address) {
    refuse_usage(name + "'s memory ends beyond the last address");
  }
  if (address % dtype_bytes(tensor.dtype) != 0) {
    refuse_usage(name + "'s memory doesn't begin at a multiple of " +
                 std::to_string(dtype_bytes(tensor.dtype)) + ", the bytes of one value");
  }
}

void check_count(const void* list, std::size_t count, const char* name) {
  if (count > kMaxAdapters) {
    refuse_usage(std::to_string(count) + " " + name + " are given, at most " +
                 std::to_string(kMaxAdapters) + " are taken");
  }
  if (count > 0) {
    require(list, name);
  }
}

}  // namespace

Options read_options(const wanrt_options* given) {
  Options options;
  if (given == nullptr) {
    return options;
  }
  if (given->device != WANRT_CPU && given->device != WANRT_CUDA) {
    refuse_usage("there is no device " + std::to_string(given->device));
  }
  if (given->device_id < 0) {
    refuse_usage("device_id can't be negative");
  }
  if (given->threads < 0 || given->threads > kMaxThreads) {
    refuse_usage("threads is " + std::to_string(given->threads) + ", at most " +
                     std::to_string(kMaxThreads) + " are taken",
                 "0 takes one per core");
  }
  options.device = given->device;
  options.device_id = given->device_id;
  options.threads = given->threads;
  options.mapped = read_flag(given->mapped, "mapped");
  if (given->workload != nullptr) {
    options.workload = require_text(given->workload, "workload");
  }
  options.stream = given->stream;
  options.no_graph = read_flag(given->no_graph, "no_graph");
  options.progress = given->progress;
  options.progress_context = given->progress_context;
  return options;
}

std::map<std::string, View> read_views(const wanrt_tensor* tensors, std::size_t count,
                                       const std::vector<const TensorSpec*>& known,
                                       const std::string& kind) {
  if (count > known.size()) {
    std::string names;
    for (const TensorSpec* spec : known) {
      names += (names.empty() ? "" : ", ") + spec->name;
    }
    refuse_usage(std::to_string(count) + " " + kind + "s are given, the engine has " +
                     std::to_string(known.size()),
                 kind + "s: " + names);
  }
  if (count > 0) {
    require(tensors, kind + "s");
  }
  std::map<std::string, View> views;
  for (const wanrt_tensor* one = tensors; one != tensors + count; ++one) {
    require(one->name, "a tensor's name");
    check_tensor(*one);
    View view{one->dtype, one->memory,
              Shape(std::begin(one->shape), std::begin(one->shape) + one->rank), one->data,
              one->bytes};
    if (!views.emplace(one->name, std::move(view)).second) {
      refuse_usage(std::string(one->name) + " is given twice");
    }
  }
  return views;
}

std::vector<wanrt_adapter> read_adapters(const wanrt_adapter* adapters, std::size_t count) {
  check_count(adapters, count, "adapters");
  for (const wanrt_adapter* one = adapters; one != adapters + count; ++one) {
    require_text(one->path, "adapter");
  }
  return {adapters, adapters + count};
}

std::vector<float> read_strengths(const float* strengths, std::size_t count) {
  check_count(strengths, count, "strengths");
  return {strengths, strengths + count};
}

}  // namespace wanrt::impl
