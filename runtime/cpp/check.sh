#!/usr/bin/env bash
# Build libwanrt, plain and with sanitizers, and run what needs no engine of wanexport's:
#
#   check.sh BUILD BIN
#
# BUILD is the folder to build in, BIN a Python environment's with onnxruntime, clang-format and
# clang-tidy. FUZZ_SECONDS (default 10) bounds each of the two fuzzers. TENSORRT_ROOT, a folder with
# TensorRT's headers, which no registry has, adds the backend of TensorRT: compiled against them, and
# run with a stand-in for the libraries (tests/tensorrt), since these need a GPU.
set -euo pipefail
build=$(realpath -m "$1")
bin=$(realpath "$2")
cd "$(dirname "${BASH_SOURCE[0]}")"

for tool in cmake pkg-config c++ clang++; do
  command -v "$tool" >/dev/null || {
    echo "make cpp needs $tool; on Debian:" \
      "apt-get install cmake g++ pkg-config clang libclang-rt-dev" >&2
    exit 1
  }
done

./deps.sh "$build/deps" "$bin/python"

# compile NAME TARGET [OPTION...]
compile() {
  cmake -S . -B "$build/$1" -DCMAKE_PREFIX_PATH="$build/deps" -DWANRT_TESTS=ON \
    -DCMAKE_CXX_FLAGS=-Werror "${@:3}" >"$build/$1.log" || { cat "$build/$1.log" >&2; exit 1; }
  sed -n '/left out/d; s/^-- \(.*backend:.*\)/\1/p' "$build/$1.log"
  cmake --build "$build/$1" -j"$(nproc)" --target "$2" >"$build/$1.log" ||
    { cat "$build/$1.log" >&2; exit 1; }
}
sanitized=(-DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_BUILD_TYPE=Debug
  -DCMAKE_CXX_FLAGS_DEBUG=-O1 -DWANRT_SANITIZE=address,undefined)
# what these tests take for granted; a TensorRT of this machine's is compiled below or not at all
compile plain all -DWANRT_TENSORRT=OFF
compile sanitized all "${sanitized[@]}" -DWANRT_FUZZERS=ON -DWANRT_TENSORRT=OFF
kinds=(plain sanitized)
if [[ -n ${TENSORRT_ROOT:-} ]]; then
  cuda=$build/cuda
  [[ -e $cuda/nvidia ]] || "$bin/python" -m pip install --quiet --disable-pip-version-check \
    --no-deps --target "$cuda" 'nvidia-cuda-runtime==13.*' 'nvidia-cuda-crt==13.*'
  headers=(-U 'TensorRT_*' "-DTENSORRT_ROOT=$TENSORRT_ROOT" "-DCUDAToolkit_ROOT=$cuda"
    -DWANRT_FAKE_TENSORRT=ON)
  compile tensorrt wanrt-tensorrt "${headers[@]}"
  compile tensorrt-sanitized wanrt-tensorrt "${headers[@]}" "${sanitized[@]}"
  kinds+=(tensorrt tensorrt-sanitized)
fi

sources=$(find . ../../benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.hpp' -o -name '*.c')
# shellcheck disable=SC2086 # one word per file
"$bin/clang-format" --style=file:.clang-format --dry-run --Werror $sources
# not the tests: doctest's macros break most rules
tidy() {
  xargs -0 -n 4 -P "$(nproc)" "$bin/clang-tidy" --quiet -p "$build/$1" \
    2>"$build/clang-tidy.log" || { cat "$build/clang-tidy.log" >&2; exit 1; }
}
find src examples fuzz -name '*.cpp' -not -path 'src/tensorrt/*' -print0 | tidy sanitized
[[ -z ${TENSORRT_ROOT:-} ]] || find src/tensorrt -name '*.cpp' -print0 | tidy tensorrt-sanitized

for kind in "${kinds[@]}"; do
  filter=()
  [[ $kind != tensorrt* ]] || filter=(--tests-regex tensorrt)
  ctest --test-dir "$build/$kind" --no-tests=error --output-on-failure "${filter[@]}"
done
fuzz() {
  mkdir -p "$build/corpus/$1"
  "$build/sanitized/fuzz/wanrt-fuzz-$1" -max_total_time="${FUZZ_SECONDS:-10}" -timeout=5 \
    -verbosity=0 -print_final_stats=1 -artifact_prefix="$build/found-$1-" \
    "$build/corpus/$1" "fuzz/corpus/$1" >"$build/fuzz-$1.log" 2>&1 ||
    { cat "$build/fuzz-$1.log" >&2; return 1; }
  echo "fuzzed $1: $(awk '/executed_units/ { print $2 }' "$build/fuzz-$1.log") inputs"
}
fuzz manifest &
manifest=$!
fuzz safetensors
wait "$manifest"
[[ -n ${TENSORRT_ROOT:-} ]] ||
  echo "left out: libwanrt's TensorRT backend, no NvInfer.h; set TENSORRT_ROOT"
