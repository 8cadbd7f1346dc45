#include "tensorrt/merge.h"

#include <algorithm>
#include <set>
#include <utility>
#include <vector>

#include "error.h"

namespace wanrt::impl {

namespace {

// Merged matrices that wait for their refit; the adapted ones of a 14B model are 12.6 GB.
constexpr std::size_t kBatchBytes = std::size_t{1} << 30U;

std::size_t matrix_bytes(const MergePlan& plan, wanrt_dtype dtype) {
  return static_cast<std::size_t>(plan.rows) * static_cast<std::size_t>(plan.columns) *
         dtype_bytes(dtype);
}

[[noreturn]] void refuse(const Folder& folder, const std::string& problem) {
  throw Error(WANRT_MANIFEST_ERROR, folder.path + "/engine.json: swap: " + problem,
              "rebuild the engine with --force");
}

}  // namespace

// A merge plan with its inputs in device memory: the weight, A and B padded to the plan's rank.
class Merger::Computation {
 public:
  Computation(TensorRt& tensorrt, const MergePlan& plan, wanrt_dtype dtype)
      : rows_(plan.rows),
        columns_(plan.columns),
        rank_(plan.max_rank),
        weight_(matrix_bytes(plan, dtype)),
        padded_a_(static_cast<std::size_t>(rank_ * columns_) * sizeof(float)),
        padded_b_(static_cast<std::size_t>(rows_ * rank_) * sizeof(float)),
        a_(padded_a_.size()),
        b_(padded_b_.size()),
        engine_(tensorrt.load(plan.file)),
        forward_(tensorrt, *engine_, false) {}

  void run(const std::byte* weight, const Matrix& a, const Matrix& b, void* merged,
           cudaStream_t stream) {
    pad_matrix({WANRT_FP32, WANRT_HOST, {rank_, columns_}, padded_a_.data(), padded_a_.size()}, a);
    pad_matrix({WANRT_FP32, WANRT_HOST, {rows_, rank_}, padded_b_.data(), padded_b_.size()}, b);
    copy_to_device(weight_.data(), weight, weight_.size(), stream);
    copy_to_device(a_.data(), padded_a_.data(), a_.size(), stream);
    copy_to_device(b_.data(), padded_b_.data(), b_.size(), stream);
    forward_.place({{"weight", {weight_.data(), {rows_, columns_}}},
                    {"lora_A", {a_.data(), {rank_, columns_}}},
                    {"lora_B", {b_.data(), {rows_, rank_}}}},
                   {{"merged", {merged, {rows_, columns_}}}}, 0);
    forward_.enqueue(stream);
    synchronize(stream);  // before the next one's A and B take these' place
  }

 private:
  std::int64_t rows_, columns_, rank_;
  DeviceMemory weight_;
  Buffer padded_a_, padded_b_;
  DeviceMemory a_, b_;
  PlanEngine engine_;
  Forward forward_;
};

class Merger::Batch {
 public:
  Batch(TensorRt& tensorrt, nvinfer1::ICudaEngine& engine, int threads)
      : refit(tensorrt, engine, threads) {}

  std::byte* add(std::size_t size) {
    bytes += size;
    return memory.emplace_back(size).data();
  }

  std::vector<DeviceMemory> memory;
  std::size_t bytes = 0;
  Refit refit;  // freed first: it refers to the memory
};

Merger::Merger(TensorRt& tensorrt, nvinfer1::ICudaEngine& engine, const Folder& folder, int threads)
    : tensorrt_(tensorrt),
      engine_(engine),
      folder_(folder),
      plan_(plan_of(folder)),
      swap_(plan_.swap.value()),
      threads_(threads),
      weights_(folder) {
  for (const TensorSpec& spec : swap_.inputs) {
    Module& module = modules_[spec.module + ".weight"];
    (spec.role == Role::lora_a ? module.a : module.b) = &spec;
  }
  for (auto& [name, module] : modules_) {
    const auto base = swap_.base.find(name);
    if (module.a == nullptr || module.b == nullptr || base == swap_.base.end()) {
      refuse(folder_, name + " lacks lora_A, lora_B or its base");
    }
    const Shape a = resolve_shape(module.a->shape, {});
    const Shape b = resolve_shape(module.b->shape, {});
    const auto& merges = swap_.merges;
    const auto plan = std::find_if(merges.begin(), merges.end(), [&](const MergePlan& one) {
      return one.rows == b[0] && one.columns == a[1] && one.max_rank >= a[0] && a[0] == b[1] &&
             matrix_bytes(one, base->second.dtype) == static_cast<std::size_t>(base->second.bytes);
    });
    if (plan == merges.end() || module.a->dtype != WANRT_FP32 || module.b->dtype != WANRT_FP32) {
      refuse(folder_, "no plan merges " + name);
    }
    module.plan = &*plan;
  }
  for (const auto& [name, range] : swap_.base) {
    if (plan_.weights.count(name) == 0) {
      refuse(folder_, name + " isn't a weight of the plan");
    }
  }
}

Merger::~Merger() = default;

void Merger::merge(std::optional<Adapter> adapter) {
  require_intact();
  State next;
  next.own = !adapter;
  if (adapter) {
    next.adapter = *std::move(adapter);
  }
  try {
    change(state_, next);
  } catch (...) {
    try {
      change(next, state_);
    } catch (...) {
      intact_ = false;
    }
    throw;
  }
  state_ = std::move(next);
}

void Merger::require_intact() const {
  if (!intact_) {
    throw Error(WANRT_ENGINE_ERROR,
                folder_.path + " has a part of an adapter: a swap failed and couldn't be undone",
                "close the engine and open it again");
  }
}

Merger::Source Merger::source(const std::string& name, const State& state) const {
  if (state.own) {
    return Source::own;
  }
  const auto module = modules_.find(name);
  const bool adapted = module != modules_.end() && state.adapter.count(module->second.a->name) > 0;
  return adapted ? Source::merged : Source::base;
}

void Merger::change(const State& from, const State& to) {
  std::set<std::string> names;
  for (const auto& [name, range] : swap_.base) {
    const Source now = source(name, to);
    if (now == Source::merged || now != source(name, from)) {
      names.insert(name);
    }
  }
  while (!names.empty()) {
    Batch batch(tensorrt_, engine_, threads_);
    while (!names.empty() && batch.bytes < kBatchBytes) {
      supply(*names.begin(), to, batch);
      names.erase(names.begin());
    }
    batch.refit.complete([&](const std::string& name) {  // what is fused with them
      supply(name, to, batch);
      names.erase(name);
    });
    batch.refit.run(stream_.get());
  }
}

void Merger::supply(const std::string& name, const State& state, Batch& batch) {
  const auto base = swap_.base.find(name);
  const auto own = plan_.weights.find(name);
  if (own == plan_.weights.end()) {
    tensorrt_.fail("asks for the weights " + name + ", which engine.json doesn't name");
  }
  const Source from = base == swap_.base.end() ? Source::own : source(name, state);
  const WeightRange& range = from == Source::own ? own->second : base->second;
  const auto bytes = static_cast<std::size_t>(range.bytes);
  if (from != Source::merged) {
    batch.refit.give(name, range.dtype, weights_.at(range), bytes, nvinfer1::TensorLocation::kHOST);
    return;
  }
  const Module& module = modules_.at(name);
  std::byte* merged = batch.add(bytes);
  computation(module, range)
      .run(weights_.at(range), state.adapter.at(module.a->name), state.adapter.at(module.b->name),
           merged, stream_.get());
  batch.refit.give(name, range.dtype, merged, bytes, nvinfer1::TensorLocation::kDEVICE);
}

Merger::Computation& Merger::computation(const Module& module, const WeightRange& range) {
  auto& one = computations_[module.plan];
  if (!one) {
    one = std::make_unique<Computation>(tensorrt_, *module.plan, range.dtype);
  }
  return *one;
}

}  // namespace wanrt::impl
