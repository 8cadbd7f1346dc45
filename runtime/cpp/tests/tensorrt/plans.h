// Engine folders whose plans the stand-in runs: x [rows, 3] in, y out, weights to_q, to_k and bias.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "fake.h"
#include "tiny.h"

namespace plans {

using tiny::Json;
using Values = std::vector<float>;

// What the weights add to y: their sums.
inline constexpr float kOwn = 9 + 18 + 3;   // of the engine's own weights
inline constexpr float kBase = 90 + 0 + 3;  // of the base

// `change(plan file, engine.json)` alters what is written.
using Change = std::function<void(Json&, Json&)>;

// A separate engine, a swappable one (of rank 2), a merged one that swaps in place.
tiny::Folder separate(const Change& change = [](Json&, Json&) {});
tiny::Folder swappable(const Change& change = [](Json&, Json&) {});
tiny::Folder merged(const Change& change = [](Json&, Json&) {});

wanrt_options on_gpu();

// What opening says, or "nothing".
std::string refusal(const tiny::Folder& folder, const wanrt_options& options = on_gpu());

// An engine with host memory bound.
struct Fed {
  explicit Fed(const tiny::Folder& folder, const wanrt_options& options = on_gpu());

  void bind() { engine.bind({first, second}); }
  float run();  // the first value of y where x is 0

  Values x = Values(6), timestep = {500};
  wanrt::Tensor first = tiny::tensor("x", {2, 3}, x);
  wanrt::Tensor second = tiny::tensor("timestep", {1}, timestep);
  wanrt::Engine engine;
};

// Puts the stand-in back to what it is at first.
struct Reset {
  Reset() { fake::state() = fake::State(); }
};

}  // namespace plans
