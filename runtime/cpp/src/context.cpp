#include "context.h"

#include <algorithm>
#include <cstring>

#include "error.h"

namespace wanrt::impl {

namespace {

[[noreturn]] void refuse(const std::string& message, const std::string& hint = "") {
  throw Error(WANRT_ENGINE_ERROR, message, hint);
}

bool same_matrix(const Matrix& one, const Matrix& other) {
  return one.rows == other.rows && one.columns == other.columns &&
         one.data.size() == other.data.size() &&
         (one.data.size() == 0 ||
          std::memcmp(one.data.data(), other.data.data(), one.data.size()) == 0);
}

bool same_effect(const Generations::Effects::value_type& one,
                 const Generations::Effects::value_type& other) {
  return one.first == other.first &&
         std::equal(one.second.begin(), one.second.end(), other.second.begin(), other.second.end(),
                    [](const auto& a, const auto& b) {
                      return a.first == b.first && same_matrix(*a.second, *b.second);
                    });
}

}  // namespace

std::size_t Context::bytes() const {
  std::size_t sum = 0;
  for (const auto& [name, view] : values.views) {
    sum += view.bytes;
  }
  return sum;
}

Generations::Generations(const Manifest& manifest) {
  if (const Graph* context = manifest.context()) {
    for (const TensorSpec& spec : context->inputs) {
      if (is_adapter(spec.role)) {
        names_.insert(spec.name);
      }
    }
  }
}

Generations::Effects Generations::effects_of(const Stack& stack) const {
  Effects effects;
  for (const Stacked& one : stack) {
    std::map<std::string, const Matrix*> own;
    for (const auto& [name, matrix] : one.matrices) {
      if (names_.count(name) > 0) {
        own[name] = &matrix;
      }
    }
    if (one.strength != 0 && !own.empty()) {
      effects.emplace_back(one.strength, std::move(own));
    }
  }
  return effects;
}

void Generations::change(const Effects& before, const Effects& after) {
  if (!std::equal(before.begin(), before.end(), after.begin(), after.end(), same_effect)) {
    ++current_;
  }
}

void Generations::check(const Context& context) const {
  if (context.owner != owner_) {
    refuse("the context was prepared by another engine", "call wanrt_prepare with this one");
  }
  if (context.generation != current_) {
    refuse("the context is stale: adapters or strengths of its layers have changed since",
           "call wanrt_prepare again; it takes one per distinct strength");
  }
}

void check_context(const Context& context, const Graph& graph, Symbols& symbols) {
  for (const TensorSpec& spec : graph.inputs) {
    if (spec.role != Role::context) {
      continue;
    }
    const View& view = context.values.views.at(spec.name);
    if (view.dtype != spec.dtype) {
      refuse("input " + spec.name + " is " + dtype_name(view.dtype) + ", the engine takes " +
             dtype_name(spec.dtype));
    }
    if (!match_shape(spec.shape, view.shape, symbols)) {
      refuse("input " + spec.name + " has shape " + show_shape(view.shape) + ", the engine takes " +
             show_shape(spec.shape, symbols));
    }
  }
}

}  // namespace wanrt::impl
