"""mypy of every module that calls TensorRT, against the API of each release that we support."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from stubrepair import repair
from tensorrt_stubs import RELEASES

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "build/stubs"
CALLS_TENSORRT = re.compile(r"\bwanrt\.backends\.tensorrt(\.| import .*\b)api\b")
MODULES = sorted(
    path
    for folder in ("export", "runtime")
    for path in (ROOT / folder).rglob("*.py")
    if path.name == "api.py" or CALLS_TENSORRT.search(path.read_text())
)
ERROR = re.compile(r"^(?P<file>.+?):(?P<line>\d+): error: (?P<text>.*)  \[(?P<code>[\w-]+)\]$")


@pytest.fixture(params=RELEASES)
def release(request: pytest.FixtureRequest) -> str:
    name = str(request.param)
    if not (STUBS / name / "tensorrt/__init__.pyi").is_file():
        pytest.skip(f"no types of TensorRT {name}: make stubs")
    return name


def check(release: str, *files: Path) -> list[tuple[int, str, str]]:
    """Have mypy check files strictly against a release; each error's line, code and text."""
    # with the cache and the options of make lint: what it has checked isn't checked again
    argv = (sys.executable, "-m", "mypy", "--always-true", "TENSORRT_STUBS", "--no-color-output",
            "--no-error-summary", "--hide-error-context", *map(str, files))  # fmt: skip
    paths = f"{STUBS / release}{os.pathsep}{ROOT / 'tests/support'}"
    environment = {**os.environ, "MYPYPATH": paths}
    done = subprocess.run(
        argv, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    found = [ERROR.match(line) for line in done.stdout.splitlines() if ": error: " in line]
    assert done.returncode == bool(found), done.stdout + done.stderr
    assert all(found), done.stdout
    return [(int(m["line"]), m["code"], m["text"]) for m in found if m]


def test_what_calls_tensorrt_fits_every_release(release: str) -> None:
    assert check(release, *MODULES) == []


def test_the_fake_that_tests_run_has_the_real_signatures(release: str) -> None:
    assert check(release, ROOT / "tests/support/faketensorrt.py") == []


DRIFTED = """
from typing import SupportsIndex

import tensorrt as real
from typing_extensions import override

class Context(real.IExecutionContext):
    @override
    def execute_async_v2(self, stream_handle: SupportsIndex) -> bool:
        return True

    @override
    def set_device_memory(self, memory: SupportsIndex) -> None: ...

class Refitter(real.Refitter):
    @override
    def get_missing_weights(self) -> set[str]:
        return set()
"""


def test_a_fake_that_drifts_is_an_error(release: str, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(DRIFTED)
    assert [(line, code) for line, code, _ in check(release, tmp_path / "planted.py")] == [
        (9, "misc"),  # no such method
        (13, "override"),  # one parameter too few
        (17, "override"),
    ]


REMOVED = """
from wanrt.backends.tensorrt import api as trt

def use(config: trt.IBuilderConfig, engine: trt.ICudaEngine, layer: trt.ILayer) -> None:
    config.set_flag(trt.BuilderFlag.BF16)
    layer.precision = trt.float32
    print(engine.device_memory_size)
"""


def test_names_that_a_release_removed_are_errors(release: str, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(REMOVED)
    removed = [
        (5, "attr-defined", '"type[BuilderFlag]" has no attribute "BF16"'),
        (6, "attr-defined", '"ILayer" has no attribute "precision"'),
        (7, "attr-defined", '"ICudaEngine" has no attribute "device_memory_size"; '
            'maybe "device_memory_size_v2"?'),
    ]  # fmt: skip
    assert check(release, tmp_path / "planted.py") == ([] if release == "10.16" else removed)


WRONG = """
from wanrt.backends.tensorrt import api as trt

def use(builder: trt.Builder, config: trt.IBuilderConfig, refitter: trt.Refitter) -> bytes:
    config.builder_optimization_level = 2.5
    builder.create_optimization_profile().set_shape("x", 1, (2,), (3,))
    refitter.set_named_weights(b"name", trt.Weights(trt.bfloat16, 4096, 2))
    network = builder.create_network(0)
    return bytes(builder.build_serialized_network(network, config))

class Monitor(trt.IProgressMonitor):
    def step_complete(self, phase_name: str, step: str) -> bool:
        return trt.nothing is None
"""


def test_wrong_arguments_are_errors(release: str, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(WRONG)
    assert [(line, code) for line, code, _ in check(release, tmp_path / "planted.py")] == [
        (5, "assignment"),
        (6, "arg-type"),
        (7, "call-overload"),
        (9, "arg-type"),  # None, after a failure
        (12, "override"),
        (13, "attr-defined"),
    ]


RIGHT = """
from pathlib import Path

import numpy as np

from wanrt.backends.tensorrt import api as trt

class Log(trt.ILogger):
    def __init__(self) -> None:
        trt.ILogger.__init__(self)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        if severity <= trt.ILogger.WARNING or severity == trt.Logger.Severity.INFO:
            print(severity.name, msg)

class Monitor(trt.IProgressMonitor):
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None: ...
    def step_complete(self, phase_name: str, step: int) -> bool:
        return step > 0
    def phase_finish(self, phase_name: str) -> None: ...

class Reader(trt.IStreamReaderV2):
    def read(self, num_bytes: int, stream: int) -> bytes:
        return bytes(num_bytes)
    def seek(self, offset: int, where: trt.SeekPosition) -> bool:
        return where == trt.SeekPosition.SET

class Outputs(trt.IOutputAllocator):
    def notify_shape(self, tensor_name: str, shape: trt.Dims) -> None: ...
    def reallocate_output(self, tensor_name: str, memory: int, size: int, alignment: int) -> int:
        return memory

def build(path: Path) -> None:
    builder = trt.Builder(Log())
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, Log())
    parser.load_model_proto(path.read_bytes(), path=str(path))
    print([parser.get_error(i).desc() for i in range(parser.num_errors)])
    config = builder.create_builder_config()
    config.progress_monitor = Monitor()
    config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, np.int64(1 << 30))
    profile = builder.create_optimization_profile()
    profile.set_shape("x", (1, 2), [2, 3], trt.Dims((3, 4)))
    x = network.add_input("x", trt.bfloat16, [-1, 4])
    x.shape = (1, *x.shape[1:])
    constant = network.add_constant((2, 2), np.zeros((2, 2), np.float32))
    assert constant is not None
    product = network.add_matrix_multiply(
        x, trt.MatrixOperation.NONE, constant.get_output(0), trt.MatrixOperation.TRANSPOSE
    )
    assert product is not None
    print([layer.name for layer in network], trt.volume(x.shape), x.dtype.itemsize)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None
    path.write_bytes(plan)
    print(memoryview(plan).nbytes == plan.nbytes, trt.select, trt.selected(), trt.version())

def run(engine: trt.ICudaEngine, weights: np.ndarray[tuple[int], np.dtype[np.uint16]]) -> list[str]:
    refitter = trt.Refitter(engine, Log())
    for name in refitter.get_missing_weights():
        refitter.set_named_weights(name, trt.Weights(trt.bfloat16, weights.ctypes.data, 8))
        refitter.set_named_weights(name, weights)
    return refitter.get_missing_weights()
"""


def test_what_tensorrt_takes_is_no_error(release: str, tmp_path: Path) -> None:
    (tmp_path / "planted.py").write_text(RIGHT)
    assert check(release, tmp_path / "planted.py") == []


def test_types_hold_no_documentation(release: str) -> None:
    stub = (STUBS / release / "tensorrt/__init__.pyi").read_text()
    assert '"""' not in stub
    assert ":arg" not in stub


OF_PYTHON_3_11 = """
import typing
import typing_extensions
class IHostMemory:
    def address(self, data: typing_extensions.Buffer) -> typing_extensions.CapsuleType: ...
"""
OF_PYTHON_3_13 = """
import types
import typing
class IHostMemory:
    def __release_buffer__(self, buffer): ...
    def address(self, data: collections.abc.Buffer) -> types.CapsuleType: ...
"""


def test_every_python_makes_the_same_types() -> None:
    assert repair(OF_PYTHON_3_11) == repair(OF_PYTHON_3_13)


def test_a_release_whose_bindings_cant_be_had_is_left_out_by_name(tmp_path: Path) -> None:
    environment = {**os.environ, "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": os.devnull}
    argv = (sys.executable, ROOT / "tools/tensorrt_stubs.py", tmp_path)
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    said = done.stdout.splitlines()
    assert [line.partition(": tensorrt-cu13-bindings==")[0] for line in said] == [
        "left out: types of TensorRT 10.16",
        "left out: types of TensorRT 11.4",
    ]
    assert all(line.endswith("to try again: make stubs") for line in said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["rtx"]
