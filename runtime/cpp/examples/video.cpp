// wanrt-video: a C++ host that makes videos. It reads what Python's text encoder, image encoder and
// sampler have prepared, runs an engine for every step and prompt, and writes the last latents.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>
#include <wanrt/wanrt.hpp>

#include "sampler.h"
#include "tool.h"
#include "values.h"
#include "video_arguments.h"
#include "video_file.h"
#include "visible.h"

namespace {

// One engine at work on one video: the memory of the inputs that change from step to step.
class Model {
 public:
  Model(wanrt::Engine& engine, const VideoFile& video) : engine_(engine), video_(video) {
    const wanrt::ManifestView manifest = engine.manifest();
    prompts_[0].inputs = video.inputs(manifest, "positive");
    if (video.guided()) {
      prompts_[1].inputs = video.inputs(manifest, "negative");
    }
    is_split_ = manifest.info().context_inputs > 0;
    for (wanrt::Tensor input : manifest.inputs(video.workload(manifest).c_str())) {
      const std::string name = input.name;
      if (name == "hidden_states" || name == "timestep") {
        auto& memory = name == "timestep" ? timestep_ : hidden_states_;
        memory.resize((input.bytes + sizeof(float) - 1) / sizeof(float));
        input.data = memory.data();
        (name == "timestep" ? step_inputs_[1] : step_inputs_[0]) = input;
      }
    }
    check_sample();
  }

  // Set what this step's forwards read: the sample, with the conditions of an image behind its
  // channels, and the timestep.
  void set_step(const std::vector<float>& sample, std::size_t step) {
    const wanrt::Tensor& hidden = step_inputs_[0];
    const auto batch = static_cast<std::size_t>(hidden.shape[0]);
    const wanrt::Tensor* condition = video_.condition();
    const std::size_t own = sample.size() / batch;
    const std::size_t more = condition == nullptr ? 0 : count_values(*condition) / batch;
    for (std::size_t b = 0; b < batch; ++b) {
      const std::size_t start = b * (own + more);
      for (std::size_t k = 0; k < own; ++k) {
        store(hidden, start + k, sample[(b * own) + k]);
      }
      for (std::size_t k = 0; k < more; ++k) {
        store(hidden, start + own + k, load(*condition, (b * more) + k));
      }
      store(step_inputs_[1], b, video_.get("timesteps").values<float>()[step]);
    }
  }

  // How many contexts were made.
  [[nodiscard]] std::size_t contexts() const {
    return static_cast<std::size_t>(
        std::count_if(prompts_.begin(), prompts_.end(),
                      [](const Prompt& prompt) { return prompt.context.has_value(); }));
  }

  // Run a forward for one of the prompts; return its first output in fp32.
  std::vector<float> predict(bool negative) {
    if (!bound_ || negative != bound_negative_) {
      bind(prompts_.at(negative ? 1 : 0));
      bound_ = true;
      bound_negative_ = negative;
    }
    engine_.forward();
    const wanrt::Tensor output = engine_.output();
    std::vector<float> values(count_values(output));
    for (std::size_t k = 0; k < values.size(); ++k) {
      values[k] = load(output, k);
    }
    if (!std::all_of(values.begin(), values.end(), [](float one) { return std::isfinite(one); })) {
      throw std::runtime_error(std::string("output ") + output.name + " isn't finite");
    }
    return values;
  }

 private:
  struct Prompt {
    std::vector<wanrt::Tensor> inputs;
    std::optional<wanrt::Context> context;  // of a split engine, made once for all steps
  };

  void bind(Prompt& prompt) {
    if (is_split_) {
      if (!prompt.context) {
        prompt.context = engine_.prepare(prompt.inputs);
      }
      engine_.bind(*prompt.context, step_inputs_);
      return;
    }
    std::vector<wanrt::Tensor> inputs = prompt.inputs;
    inputs.insert(inputs.end(), step_inputs_.begin(), step_inputs_.end());
    engine_.bind(inputs);
  }

  void check_sample() const {
    const wanrt::Tensor& latents = video_.get("latents");
    const wanrt::Tensor* condition = video_.condition();
    const std::size_t given =
        count_values(latents) + (condition == nullptr ? 0 : count_values(*condition));
    if (given != count_values(step_inputs_[0]) || latents.shape[0] != step_inputs_[0].shape[0] ||
        (condition != nullptr && condition->dtype != step_inputs_[0].dtype)) {
      throw std::runtime_error("latents and condition don't make the engine's hidden_states");
    }
  }

  wanrt::Engine& engine_;
  const VideoFile& video_;
  std::vector<float> hidden_states_, timestep_;
  std::array<Prompt, 2> prompts_;  // the positive one, the negative one
  std::vector<wanrt::Tensor> step_inputs_{2};
  bool is_split_ = false, bound_ = false, bound_negative_ = false;
};

using Engines = std::vector<std::unique_ptr<wanrt::Engine>>;

// What a video took.
struct Work {
  std::size_t forwards = 0, contexts = 0;
};

std::string context_count(std::size_t count) {
  return std::to_string(count) + (count == 1 ? " context, " : " contexts, ");
}

// Run all steps of a video and write its latents.
Work make_video(const Engines& engines, const VideoJob& job) {
  const VideoFile video(job.video);
  if (video.is_pair() != (engines.size() == 2)) {
    throw std::runtime_error(
        job.video + (video.is_pair() ? ": it takes both engines of a pair, high-noise first"
                                     : ": it takes one engine"));
  }
  std::vector<std::unique_ptr<Model>> models;
  for (const auto& engine : engines) {
    models.push_back(std::make_unique<Model>(*engine, video));
  }
  Sampler sampler(video);
  Work work;
  for (std::size_t step = 0; step < video.steps(); ++step) {
    Model& model = *models[step < video.high_steps() ? 0 : 1];
    model.set_step(sampler.sample(), step);
    const std::vector<float> positive = model.predict(false);
    sampler.advance(positive, video.guided() ? model.predict(true) : std::vector<float>());
    work.forwards += video.guided() ? 2 : 1;
    show_steps(static_cast<long>(step) + 1, static_cast<long>(video.steps()));
  }
  write_latents(job.out, video.get("latents"), sampler.sample());
  for (const auto& model : models) {
    work.contexts += model->contexts();
  }
  return work;
}

int run_command(int argc, char** argv) {
  const VideoArguments arguments = read_video_arguments(argc, argv);
  if (arguments.version) {
    print_version("wanrt-video");
    return 0;
  }
  Engines engines;
  for (const std::string& folder : arguments.engines) {
    engines.push_back(
        std::make_unique<wanrt::Engine>(folder, arguments.options, loading_progress()));
  }
  for (const VideoJob& job : arguments.jobs) {
    if (job.adapters) {
      engines.front()->swap(*job.adapters);
    }
    if (job.low_adapters) {
      engines.back()->swap(*job.low_adapters);
    }
    const auto start = std::chrono::steady_clock::now();
    const Work work = make_video(engines, job);
    const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
    std::printf("%s: %s forwards, %s%.4g s\n", visible(job.out).c_str(),
                std::to_string(work.forwards).c_str(),
                work.contexts > 0 ? context_count(work.contexts).c_str() : "", taken.count());
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  return run_tool(std::string(kVideoUsage) + kEngineFlagsUsage,
                  [&] { return run_command(argc, argv); });
}
