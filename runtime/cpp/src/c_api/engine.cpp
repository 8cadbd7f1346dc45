// Engines of the C ABI.
#include <memory>
#include <string>
#include <utility>

#include "c_api/arguments.h"
#include "c_api/handles.h"
#include "c_api/status.h"

using namespace wanrt::impl;

namespace {

// An engine for one call. Another call that comes meanwhile, from whatever thread, is refused.
class Claim {
 public:
  explicit Claim(wanrt_engine* engine) : engine_(engine) {
    require(engine, "engine");
    if (engine->busy.test_and_set(std::memory_order_acquire)) {
      throw Error(WANRT_BUSY, engine->manifest.folder.path + " is in use by another thread",
                  "let one thread at a time call it, or open an engine per thread");
    }
  }
  ~Claim() {
    if (engine_ != nullptr) {
      engine_->busy.clear(std::memory_order_release);
    }
  }
  Claim(const Claim&) = delete;
  Claim& operator=(const Claim&) = delete;
  Claim(Claim&&) = delete;
  Claim& operator=(Claim&&) = delete;

  Engine* operator->() const { return &engine_->engine; }

  // Take the engine for good.
  std::unique_ptr<wanrt_engine> release() {
    return std::unique_ptr<wanrt_engine>(std::exchange(engine_, nullptr));
  }

 private:
  wanrt_engine* engine_;
};

}  // namespace

wanrt_status wanrt_open(const char* folder, const wanrt_options* options, wanrt_engine** engine,
                        wanrt_error* error) {
  return guard(error, [&] {
    const std::string path = require_text(folder, "folder");
    require(engine, "engine");
    const Options chosen = read_options(options);
    *engine = std::make_unique<wanrt_engine>(read_folder(path), chosen).release();
  });
}

wanrt_status wanrt_close(wanrt_engine* engine, wanrt_error* error) {
  return guard(error, [&] {
    if (engine != nullptr) {
      Claim(engine).release();
    }
  });
}

const wanrt_manifest* wanrt_engine_manifest(const wanrt_engine* engine) {
  return engine == nullptr ? nullptr : &engine->manifest;
}

wanrt_status wanrt_bind(wanrt_engine* engine, const wanrt_tensor* inputs, size_t input_count,
                        const wanrt_tensor* outputs, size_t output_count, wanrt_error* error) {
  return guard(error, [&] {
    const Claim claim(engine);
    const Manifest& manifest = engine->manifest.folder.manifest;
    const auto in = read_views(inputs, input_count, specs_of(manifest, WANRT_INPUT), "input");
    const auto out = read_views(outputs, output_count, specs_of(manifest, WANRT_OUTPUT), "output");
    claim->bind(in, out);
  });
}

wanrt_status wanrt_prepare(wanrt_engine* engine, const wanrt_tensor* inputs, size_t input_count,
                           wanrt_context** context, wanrt_error* error) {
  return guard(error, [&] {
    const Claim claim(engine);
    require(context, "context");
    const Manifest& manifest = engine->manifest.folder.manifest;
    const auto in = read_views(inputs, input_count, specs_of(manifest, WANRT_INPUT), "input");
    *context = std::make_unique<wanrt_context>(wanrt_context{claim->prepare(in)}).release();
  });
}

wanrt_status wanrt_bind_context(wanrt_engine* engine, const wanrt_context* context,
                                const wanrt_tensor* inputs, size_t input_count,
                                const wanrt_tensor* outputs, size_t output_count,
                                wanrt_error* error) {
  return guard(error, [&] {
    const Claim claim(engine);
    require(context, "context");
    const Manifest& manifest = engine->manifest.folder.manifest;
    const auto in = read_views(inputs, input_count, specs_of(manifest, WANRT_INPUT), "input");
    const auto out = read_views(outputs, output_count, specs_of(manifest, WANRT_OUTPUT), "output");
    claim->bind(in, out, context->held);
  });
}

wanrt_status wanrt_context_info(const wanrt_context* context, uint64_t* bytes, double* seconds,
                                wanrt_error* error) {
  return guard(error, [&] {
    require(context, "context");
    require(bytes, "bytes");
    require(seconds, "seconds");
    *bytes = context->held->bytes();
    *seconds = context->held->seconds;
  });
}

void wanrt_context_free(wanrt_context* context) {
  const std::unique_ptr<wanrt_context> freed(context);
}

wanrt_status wanrt_output(wanrt_engine* engine, size_t index, wanrt_tensor* output,
                          wanrt_error* error) {
  return guard(error, [&] {
    const Claim claim(engine);
    require(output, "output");
    const auto& outputs = engine->manifest.folder.manifest.forward().outputs;
    require_index(index, outputs.size(), "output");
    *output = describe(outputs[index].name.c_str(), claim->output(index));
  });
}

wanrt_status wanrt_forward(wanrt_engine* engine, wanrt_error* error) {
  return guard(error, [&] { Claim(engine)->forward(); });
}

wanrt_status wanrt_time_forward(wanrt_engine* engine, double* seconds, wanrt_error* error) {
  return guard(error, [&] {
    const Claim claim(engine);
    require(seconds, "seconds");
    *seconds = claim->time_forward();
  });
}

wanrt_status wanrt_swap(wanrt_engine* engine, const wanrt_adapter* adapters, size_t count,
                        wanrt_error* error) {
  return guard(error, [&] {
    const Claim claim(engine);
    claim->swap(read_adapters(adapters, count));
  });
}

wanrt_status wanrt_set_strengths(wanrt_engine* engine, const float* strengths, size_t count,
                                 wanrt_error* error) {
  return guard(error, [&] {
    const Claim claim(engine);
    claim->set_strengths(read_strengths(strengths, count));
  });
}
