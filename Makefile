# make demo      build the demo's engines, bench them, make the report
# make test      lint, check types, run every test this machine can run, list what was left out
# make check     lint, check types, run the tests that need neither torch nor other processes
# make lint      the first two of those, and that the rooms import one another one way
# make stubs     types of TensorRT for mypy, made of NVIDIA's bindings; `make lint` does it first
# make test-slow the tests that take minutes each, such as the rehearsal of `make bench-gpu`
# make test-cpp  libwanrt alone: build it plain and with sanitizers, run its tests
# make gpu-check on a machine with a GPU: build, run, swap, bench every backend there is; a table
# make bench-gpu  on a machine with a GPU: every figure it can give; WHEELS=DIR works offline
# make test-versions  the oldest and newest versions that pyproject.toml allows, and the pinned; a table
# make campaign  kill commands at random, give them bad inputs, count what is wrong
# make docs      write docs/cli.md from the commands' own help
# make clean     remove the environment, caches and build folders; engines stay
#
# TORCH=cpu takes torch without CUDA, from TORCH_INDEX, for whatever makes the environment.
# PYTHON (3.11 or newer) makes the environment VENV; both, PYTEST_ARGS, and JOBS (how many processes
# `make test` runs tests in) can be given.

PYTHON ?= python3
VENV ?= .venv
PYTEST_ARGS ?=
JOBS ?= 2
TORCH ?=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
GPU_CHECK_ARGS ?=
BENCH_GPU_ARGS ?=
CAMPAIGN_ARGS ?= --minutes 20
VERSIONS_ARGS ?=
WHEELS ?=

BIN := $(VENV)/bin
DEMO := $(VENV)/.installed-demo
DEV := $(VENV)/.installed-dev
GPU_BIN := $(VENV)-gpu/bin
GPU := $(VENV)-gpu/.installed
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

TORCH_LIBRARIES := $(VENV)/lib/python3*/site-packages/torch/lib/libtorch_
ifneq ($(filter-out cpu,$(TORCH)),)
  $(error TORCH=$(TORCH): the one choice is cpu; without TORCH, pip takes torch for CUDA)
endif
ifeq ($(TORCH),cpu)
  ifneq ($(wildcard $(TORCH_LIBRARIES)cuda.so),)
    $(error TORCH=cpu: $(VENV) holds torch for CUDA already; name another environment with VENV=DIR)
  endif
endif

CPP_TOOLS := cmake pkg-config c++ clang++
LACKING := $(strip $(foreach tool,$(CPP_TOOLS),$(if $(shell command -v $(tool) 2>/dev/null),,$(tool))))

# without types of TensorRT all of it is Any, and may be
STUBS := build/stubs
TYPED = $(shell test -e $(STUBS)/11.4/tensorrt/__init__.pyi && echo yes)
MYPY_ARGS = $(if $(TYPED),--always-true TENSORRT_STUBS,--allow-subclassing-any --no-warn-return-any)

.PHONY: demo test test-slow check docs lint stubs cpp cpp-left-out test-cpp gpu-check bench-gpu test-versions campaign clean

demo: $(DEMO)
	$(BIN)/wanexport build --rank 8 --rank 32 --rank 128
	$(BIN)/wanexport build --rank 8 --rank 32 --targets all --mode separate
	$(BIN)/wanrt bench engines/ --json engines/bench.json
	$(BIN)/wanrt report engines/bench.json

test: lint $(if $(LACKING),cpp-left-out,cpp)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile -m "not slow" $(PYTEST_ARGS)
	@echo "left out: what takes minutes by itself; make test-slow runs it"

test-slow: $(DEV)
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m slow

check: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not torch and not system and not cpp and not gpu"

test-cpp: cpp
	$(BIN)/python -m pytest $(PYTEST_ARGS) tests/cpp

cpp-left-out:
	@echo "left out: libwanrt, which needs $(LACKING);" \
	  "on Debian: apt-get install cmake g++ pkg-config clang libclang-rt-dev"

cpp: $(DEV)
	runtime/cpp/check.sh build/cpp $(BIN)

lint: $(DEV) stubs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy $(MYPY_ARGS)

docs: $(DEV)
	$(BIN)/python tools/cli_reference.py docs/cli.md

stubs: $(STUBS)/made

$(STUBS)/made: tools/tensorrt_stubs.py tools/stubrepair.py $(DEV)
	$(BIN)/python tools/tensorrt_stubs.py $(STUBS)

gpu-check: $(GPU)
	$(GPU_BIN)/python -m benchmarks.gpu.backends $(GPU_CHECK_ARGS)

# WHEELS is for a machine without a network but with torch: the wheels in that folder, wanexport's own
# among them, are installed and nothing else
bench-gpu: $(if $(WHEELS),,$(GPU))
	$(if $(WHEELS),$(PYTHON) benchmarks/wheels.py install $(WHEELS))
	$(if $(WHEELS),$(PYTHON),$(GPU_BIN)/python) -m benchmarks.gpu --work build/bench-gpu $(BENCH_GPU_ARGS)

test-versions: $(DEV)
	PYTHONPATH=tools $(BIN)/python -m versions --jobs $(JOBS) $(VERSIONS_ARGS)

campaign: $(DEV)
	PYTHONPATH=tools $(BIN)/python -m campaign $(CAMPAIGN_ARGS)

clean:
	rm -rf $(VENV) $(VENV)-gpu build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find benchmarks export runtime tests tools -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "$(PYTHON) is no Python 3.11 or newer; name one: make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# torch goes first and by itself: pip would pass over an index that it can't reach
ifeq ($(TORCH),cpu)
define take_torch
@echo "installing into $(VENV): at most 0.7 GB to download, 2.6 GB on disk"
@ls $(TORCH_LIBRARIES)cpu.so >/dev/null 2>&1 || \
  $(INSTALL) --no-deps --retries 1 --index-url $(TORCH_INDEX) torch || { \
  echo "TORCH=cpu: torch can't be had from $(TORCH_INDEX); TORCH_INDEX=URL names another index, and" \
    "without TORCH=cpu pip takes torch for CUDA from PyPI" >&2; exit 1; }
endef
else
define take_torch
@echo "installing into $(VENV)"
@ls $(TORCH_LIBRARIES)cpu.so >/dev/null 2>&1 || \
  echo "about 3 GB to download and 6 GB on disk with torch for CUDA; TORCH=cpu takes it without"
endef
endif

$(DEMO): pyproject.toml constraints.txt | $(BIN)/python
	$(take_torch)
	@$(INSTALL) -e '.[cpu,export,report]'
	@touch $@

# onnxruntime and onnxruntime-gpu install the same files, so the GPU has an environment of its own
$(GPU): pyproject.toml constraints.txt
	@echo "installing into $(VENV)-gpu"
	$(PYTHON) -m venv $(VENV)-gpu
	@$(GPU_BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
	  -e '.[export,gpu,report]' cuda-bindings
	@touch $@

# what the tests need holds what the demo needs
$(DEV): pyproject.toml constraints.txt | $(BIN)/python
	$(take_torch)
	@$(INSTALL) -e '.[dev]'
	@touch $(DEMO) $@
