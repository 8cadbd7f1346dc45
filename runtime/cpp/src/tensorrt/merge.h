// Merged engines: another adapter in place, without a rebuild and without touching the rest.
#pragma once

#include <NvInfer.h>

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "adapter.h"
#include "tensorrt/cuda.h"
#include "tensorrt/forward.h"
#include "tensorrt/mapping.h"
#include "tensorrt/refit.h"
#include "tensorrt/runtime.h"

namespace wanrt::impl {

class Merger {
 public:
  // `folder` must outlive this, and its plan have a `swap`. Loads nothing before the first merge.
  Merger(TensorRt& tensorrt, nvinfer1::ICudaEngine& engine, const Folder& folder, int threads);
  ~Merger();
  Merger(const Merger&) = delete;
  Merger& operator=(const Merger&) = delete;
  Merger(Merger&&) = delete;
  Merger& operator=(Merger&&) = delete;

  // Merge an adapter into the base and refit what that changes; without one, go back to the
  // engine's own bytes. A failure leaves the previous adapter. Nothing else may run meanwhile.
  void merge(std::optional<Adapter> adapter);

  // Throw if a failure could not be undone.
  void require_intact() const;

 private:
  // A parameter's values: the engine's own, the base's, or the base's with an adapter.
  enum class Source { own, base, merged };

  struct State {
    bool own = true;
    Adapter adapter;  // kept for the way back from a failure
  };

  struct Module {
    const TensorSpec *a = nullptr, *b = nullptr;
    const MergePlan* plan = nullptr;
  };

  class Computation;  // a merge plan, loaded
  class Batch;        // what one refit exchanges

  [[nodiscard]] Source source(const std::string& name, const State& state) const;
  void change(const State& from, const State& to);
  void supply(const std::string& name, const State& state, Batch& batch);
  Computation& computation(const Module& module, const WeightRange& range);

  TensorRt& tensorrt_;
  nvinfer1::ICudaEngine& engine_;
  const Folder& folder_;
  const Plan& plan_;
  const Swap& swap_;
  int threads_;
  Stream stream_ = make_stream();
  MappedWeights weights_;
  std::map<std::string, Module> modules_;  // by the name of the weight
  std::map<const MergePlan*, std::unique_ptr<Computation>> computations_;
  State state_;
  bool intact_ = true;
};

}  // namespace wanrt::impl
