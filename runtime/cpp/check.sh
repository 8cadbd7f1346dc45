#!/usr/bin/env bash
# Build libwanrt, plain and with sanitizers, and run what needs no engine of wanexport's:
#
#   check.sh BUILD BIN
#
# BUILD is the folder to build in, BIN a Python environment's with onnxruntime, clang-format and
# clang-tidy. FUZZ_SECONDS (default 10) bounds each of the two fuzzers.
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

compile() {
  cmake -S . -B "$build/$1" -DCMAKE_PREFIX_PATH="$build/deps" -DWANRT_TESTS=ON "${@:2}" \
    >"$build/$1.log" || { cat "$build/$1.log" >&2; exit 1; }
  grep backend: "$build/$1.log"
  cmake --build "$build/$1" -j"$(nproc)" >"$build/$1.log" || { cat "$build/$1.log" >&2; exit 1; }
}
compile plain -DCMAKE_CXX_FLAGS=-Werror
compile sanitized -DCMAKE_C_COMPILER=clang -DCMAKE_CXX_COMPILER=clang++ \
  -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS_DEBUG=-O1 -DCMAKE_CXX_FLAGS=-Werror -DWANRT_FUZZERS=ON \
  -DWANRT_SANITIZE=address,undefined

sources=$(find . ../../benchmarks -name '*.cpp' -o -name '*.h' -o -name '*.hpp' -o -name '*.c')
# shellcheck disable=SC2086 # one word per file
"$bin/clang-format" --style=file:.clang-format --dry-run --Werror $sources
# not the tests: doctest's macros break most rules
find src examples fuzz -name '*.cpp' -print0 |
  xargs -0 -n 4 -P "$(nproc)" "$bin/clang-tidy" --quiet -p "$build/sanitized" \
    2>"$build/clang-tidy.log" || { cat "$build/clang-tidy.log" >&2; exit 1; }

for kind in plain sanitized; do
  ctest --test-dir "$build/$kind" --output-on-failure
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
