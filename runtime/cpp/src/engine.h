// An engine in memory: everything about it that no backend needs to know.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "backend.h"
#include "file.h"
#include "manifest/folder.h"
#include "stack.h"
#include "tensors.h"

namespace wanrt::impl {

class Engine {
 public:
  // `folder` must outlive the engine.
  Engine(const Folder& folder, const Options& options);

  void bind(const std::map<std::string, View>& inputs, const std::map<std::string, View>& outputs);
  [[nodiscard]] View output(std::size_t index);
  void forward();
  [[nodiscard]] double time_forward();
  void swap(const std::vector<wanrt_adapter>& adapters);
  void set_strengths(const std::vector<float>& strengths);

 private:
  struct Output {
    const TensorSpec* spec = nullptr;
    View view;
    Buffer own;         // empty if the memory isn't the engine's
    bool made = false;  // by the backend, at each run
  };

  struct AdapterInput {
    const TensorSpec* spec = nullptr;
    View view;
    Buffer memory;
  };

  void check_names(const std::map<std::string, View>& inputs,
                   const std::map<std::string, View>& outputs) const;
  void check_input(const TensorSpec& spec, const View& view, Symbols& symbols) const;
  [[nodiscard]] std::map<std::string, View> own_outputs() const;
  void bind_output(Output& output, const Symbols& symbols, const View* given);
  void require_bound() const;
  void require_swappable() const;
  void merge(const Stack& stack);
  void feed(const std::set<Role>& roles);

  const Folder& folder_;
  wanrt_device device_;
  const Workload* workload_ = nullptr;  // null: shapes are the caller's choice
  std::map<std::string, const TensorSpec*> data_;
  std::vector<AdapterInput> adapter_;
  std::vector<Output> outputs_;
  std::set<FileIdentity> checked_adapters_;
  Stack stack_;  // what was swapped in last
  bool bound_ = false;
  bool run_ = false;
  std::unique_ptr<Backend> backend_;  // freed first: it refers to the memory above
};

}  // namespace wanrt::impl
