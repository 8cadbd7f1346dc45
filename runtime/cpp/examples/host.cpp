// wanrt-host: a C++ host. It opens an engine, feeds it, runs forwards, switches adapters between
// them, tells tokens per second, and compares outputs with expected ones.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>
#include <wanrt/wanrt.hpp>

#include "arguments.h"
#include "tool.h"
#include "values.h"
#include "visible.h"

namespace {

double tokens_of(const wanrt_workload& workload) {
  return static_cast<double>(workload.tokens) * static_cast<double>(workload.batch);
}

void print_info(const wanrt::ManifestView& manifest, const wanrt_workload& workload) {
  const wanrt_info info = manifest.info();
  std::printf("%s: %s", visible(info.name).c_str(), info.mode);
  if (info.rank > 0 || info.max_rank > 0) {
    std::printf(" r%s", std::to_string(info.rank > 0 ? info.rank : info.max_rank).c_str());
  }
  std::printf(" %s, %s, %.0f tokens per forward%s\n", info.dtype, visible(workload.name).c_str(),
              tokens_of(workload), info.random_weights != 0 ? ", random weights" : "");
}

void print_tensors(const char* kind, const std::vector<wanrt::Tensor>& tensors) {
  for (const wanrt::Tensor& tensor : tensors) {
    std::string shape;
    for (const std::int64_t size : tensor.sizes()) {
      shape += (shape.empty() ? "" : ", ") + std::to_string(size);
    }
    std::printf("  %s %s [%s]\n", kind, visible(tensor.name).c_str(), shape.c_str());
  }
}

wanrt_workload choose_workload(const wanrt::ManifestView& manifest, const std::string& name) {
  for (std::size_t i = 0; !name.empty() && i < manifest.info().workloads; ++i) {
    const wanrt_workload workload = manifest.workload(i);
    if (workload.name == name) {
      return workload;
    }
  }
  return manifest.workload(0);
}

// Run one forward that isn't timed and some that are; return the seconds of the median.
double run_forwards(wanrt::Engine& engine, long count) {
  engine.forward();
  std::vector<double> seconds;
  for (long i = 0; i < count; ++i) {
    seconds.push_back(engine.time_forward());
  }
  const auto middle = seconds.begin() + (count / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return *middle;
}

// Compare all outputs with those of a file; return whether each is near enough.
bool compare(wanrt::Engine& engine, const std::string& path, double tolerance) {
  const wanrt::Tensors file(path);
  const std::vector<wanrt::Tensor> expected = file.all();
  const std::string shown = visible(path);
  bool near = true;
  for (std::size_t i = 0; i < engine.manifest().info().outputs; ++i) {
    const wanrt::Tensor output = engine.output(i);
    const std::string name = visible(output.name);
    const auto found = std::find_if(expected.begin(), expected.end(), [&](const auto& tensor) {
      return std::string(tensor.name) == output.name;
    });
    if (found == expected.end()) {
      std::printf("  %s isn't in %s\n", name.c_str(), shown.c_str());
      near = false;
    } else if (equal_bits(output, *found)) {
      std::printf("  %s equals %s bit by bit\n", name.c_str(), shown.c_str());
    } else {
      const double error = distance(output, *found);
      std::printf("  %s differs from %s: relative L2 distance %.3g\n", name.c_str(), shown.c_str(),
                  error);
      near = near && tolerance > 0 && error <= tolerance;
    }
  }
  return near;
}

// The data inputs, and the memory that they lie in: a file's, or random values.
class Inputs {
 public:
  explicit Inputs(const std::string& path) {
    files_.emplace_back(path);
    tensors_ = files_.front().all();
  }

  Inputs(std::vector<wanrt::Tensor> described, std::uint64_t seed)
      : tensors_(std::move(described)) {
    for (wanrt::Tensor& tensor : tensors_) {
      memory_.emplace_back((tensor.bytes / sizeof(std::uint64_t)) + 1);
      tensor.data = memory_.back().data();
      fill_random(tensor, seed);
    }
  }

  [[nodiscard]] const std::vector<wanrt::Tensor>& tensors() const { return tensors_; }

 private:
  std::vector<wanrt::Tensors> files_;
  std::vector<std::vector<std::uint64_t>> memory_;
  std::vector<wanrt::Tensor> tensors_;
};

// Throws where an output overflowed, since that is not a result.
void check_finite(wanrt::Engine& engine) {
  for (std::size_t i = 0; i < engine.manifest().info().outputs; ++i) {
    const wanrt::Tensor output = engine.output(i);
    if (!is_finite(output)) {
      throw std::runtime_error(std::string("output ") + output.name + " isn't finite");
    }
  }
}

// Load adapters, run forwards with them, and compare; return whether the outputs are right.
bool visit(wanrt::Engine& engine, const Arguments& arguments, std::size_t index, double tokens) {
  const Visit& asked = arguments.visits[index];
  if (asked.loads) {
    engine.swap(asked.adapters);
  } else if (!asked.strengths.empty()) {
    engine.set_strengths(asked.strengths);
  }
  const double seconds = run_forwards(engine, arguments.forwards);
  std::printf("%s: %.4g ms, %.4g tokens per second\n", visible(asked.name).c_str(), seconds * 1e3,
              tokens / seconds);
  check_finite(engine);
  return arguments.goldens.empty() ||
         compare(engine, arguments.goldens[index], arguments.tolerance);
}

void tell(const Arguments& arguments) {
  const wanrt::Manifest manifest(arguments.engine);
  const wanrt_workload workload = choose_workload(manifest, arguments.workload);
  print_info(manifest, workload);
  print_tensors("input", manifest.inputs(workload.name));
  print_tensors("output", manifest.outputs(workload.name));
}

bool run(const Arguments& arguments) {
  const wanrt::Manifest manifest(arguments.engine);
  const wanrt_workload workload = choose_workload(manifest, arguments.workload);
  wanrt_options options = arguments.options;
  // inputs of other shapes would be other tokens than are counted
  options.workload = arguments.workload.empty() ? workload.name : arguments.workload.c_str();
  wanrt::Engine engine(arguments.engine, options, loading_progress());
  print_info(manifest, workload);
  const Inputs inputs = arguments.inputs.empty()
                            ? Inputs(manifest.inputs(workload.name), arguments.seed)
                            : Inputs(arguments.inputs);
  engine.bind(inputs.tensors());
  bool right = true;
  for (std::size_t i = 0; i < arguments.visits.size(); ++i) {
    right = visit(engine, arguments, i, tokens_of(workload)) && right;
  }
  return right;
}

int run_command(int argc, char** argv) {
  const Arguments arguments = read_arguments(argc, argv);
  if (arguments.version) {
    print_version("wanrt-host");
    return 0;
  }
  if (arguments.info) {
    tell(arguments);
    return 0;
  }
  return run(arguments) ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  return run_tool(std::string(kUsage) + kEngineFlagsUsage, [&] { return run_command(argc, argv); });
}
