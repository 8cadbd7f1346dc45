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
#include "context.h"
#include "file.h"
#include "graph.h"
#include "manifest/folder.h"
#include "stack.h"
#include "tensors.h"

namespace wanrt::impl {

class Engine {
 public:
  // `folder` must outlive the engine.
  Engine(const Folder& folder, const Options& options);

  // A split engine's prompt and image, for any number of forwards.
  [[nodiscard]] std::shared_ptr<const Context> prepare(const std::map<std::string, View>& inputs);

  // With a context the inputs are those of the graph of every forward. Without one a split engine
  // takes all, and makes a context of its own.
  void bind(const std::map<std::string, View>& inputs, const std::map<std::string, View>& outputs,
            std::shared_ptr<const Context> context = nullptr);
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

  using Specs = std::vector<const TensorSpec*>;

  void require_split() const;
  void check_names(const std::map<std::string, View>& inputs, const Specs& known) const;
  void check_output_names(const std::map<std::string, View>& outputs) const;
  void check_input(const TensorSpec& spec, const View& view, Symbols& symbols) const;
  [[nodiscard]] std::map<std::string, View> own_outputs() const;
  void bind_output(Output& output, const Symbols& symbols, const View* given);
  [[nodiscard]] std::map<std::string, View> read_prompt(const std::map<std::string, View>& inputs,
                                                        Symbols& symbols) const;
  [[nodiscard]] std::shared_ptr<const Context> make_context(
      const std::map<std::string, View>& prompt);
  LoadedGraph& open_context();
  void bind_context(std::shared_ptr<const Context> context);
  void require_bound() const;
  void require_current();
  void require_swappable() const;
  [[nodiscard]] bool is_merged() const;
  void merge(const Stack& stack);
  void feed(const std::set<Role>& roles);

  const Folder& folder_;
  Options options_;
  const Workload* workload_ = nullptr;  // null: shapes are the caller's choice
  Specs data_;                          // of the graph of every forward
  Specs context_data_;                  // of a split engine's context graph
  std::vector<Output> outputs_;
  std::set<FileIdentity> checked_adapters_;
  Stack stack_;  // what was swapped in last
  Generations generations_;
  std::shared_ptr<const Context> bound_context_;
  std::map<std::string, View> prompt_;  // what a context of the engine's own was made of
  bool own_context_ = false;
  bool bound_ = false;
  bool run_ = false;
  LoadedGraph forward_;  // freed first, with the next: they refer to the memory above
  std::optional<LoadedGraph> context_;  // loaded when it is first needed
};

}  // namespace wanrt::impl
