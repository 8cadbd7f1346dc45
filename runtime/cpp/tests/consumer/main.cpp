// Somebody else's program: an engine folder and its inputs in, the first output's values out.
#include <cstdio>
#include <wanrt/wanrt.hpp>

int main(int argc, char** argv) {
  if (argc != 3) {
    return 2;
  }
  try {
    wanrt::Engine engine(argv[1]);
    const wanrt::Tensors inputs(argv[2]);
    engine.bind(inputs.all());
    engine.forward();
    for (const float value : engine.output().values<float>()) {
      std::printf("%.9g\n", static_cast<double>(value));
    }
  } catch (const wanrt::Error& error) {
    std::fprintf(stderr, "error: %s\nhint: %s\n", error.what(), error.hint().c_str());
    return 1;
  }
  return 0;
}
