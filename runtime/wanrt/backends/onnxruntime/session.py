"""ONNX Runtime sessions and values: options, providers, DLPack, and its errors as ours.

The CUDA paths ran on an H200 with ONNX Runtime 1.31 in bf16: benchmarks/results/gpu.md.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wanrt.errors import EngineError, UnsupportedError, WanrtError, install_hint
from wanrt.machine.cores import usable_cores
from wanrt.storage.dtypes import NUMPY, ONNX, Array

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = [
    "as_written", "backend_errors", "check_runtime", "enqueue_options", "open_session",
    "profiling", "to_ortvalue", "wrap_array",
]  # fmt: skip

DLPACK_CPU = 1
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
EXTRAS = {"cpu": install_hint("cpu"), "cuda": install_hint("gpu")}
# On a CPU what is logged, in colours, is raised as well; why CUDA is missing is only logged.
SEVERITY = {"cpu": 4, "cuda": 3}


def check_runtime(device: str) -> None:
    """Check that this machine's ONNX Runtime can run engines there.

    Raises:
        UnsupportedError: ONNX Runtime or its provider isn't installed.
    """
    try:
        import onnxruntime as ort
    except ImportError:
        raise UnsupportedError("onnxruntime isn't installed", EXTRAS[device]) from None
    if PROVIDERS[device] not in ort.get_available_providers():
        raise UnsupportedError(
            f"this onnxruntime has no {PROVIDERS[device]}",
            f"replace it: pip uninstall onnxruntime && {EXTRAS[device]}",
        )


def open_session(
    model: Path,
    device: str,
    threads: int | None,
    mapped: bool,
    static: bool,
    options: ort.SessionOptions | None = None,
) -> ort.InferenceSession:
    """Open a session; its thread pool neither spins between forwards nor outnumbers the cores.

    `options` may hold what this function doesn't set, such as profiling.
    """
    import onnxruntime as ort

    options = options or ort.SessionOptions()
    options.intra_op_num_threads = threads or usable_cores()
    options.inter_op_num_threads = 1
    options.log_severity_level = SEVERITY[device]
    options.enable_mem_pattern = static
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # The arena grows by doubling; weights in it would waste up to as much again.
    options.add_session_config_entry("session.use_device_allocator_for_initializers", "1")
    # Products of u8 and s8 saturate on CPUs with AVX2 but without VNNI, unless both are u8.
    options.add_session_config_entry("session.x64quantprecision", "1")
    if mapped:
        options.add_session_config_entry("session.disable_prepacking", "1")
    providers: list[str | tuple[str, dict[str, str]]] = [PROVIDERS["cpu"]]
    if device == "cuda":
        # fp32 engines are verified as fp32; TF32 would make them something else.
        cuda = {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested"}
        providers.insert(0, (PROVIDERS["cuda"], cuda))
        _preload_cuda()
    # or it would print on stdout that it tries again, elsewhere
    session = ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    if session.get_providers()[0] != PROVIDERS[device]:
        raise UnsupportedError(
            f"ONNX Runtime fell back from {PROVIDERS[device]} to {session.get_providers()[0]}",
            "its log says why; often CUDA or cuDNN libraries are missing",
        )
    return session


def as_written() -> ort.SessionOptions:
    """Return options for a graph that is to run as it is: no node fused, folded or moved.

    An emulated graph's pairs of casts, which are its rounding, would be folded.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


def profiling(prefix: Path, options: ort.SessionOptions | None = None) -> ort.SessionOptions:
    """Return options by which a session writes what each operator took to PREFIX_DATE.json.

    On a GPU that is the time of its launch: the wheels are built without CUDA's profiler.
    https://onnxruntime.ai/docs/performance/tune-performance/profiling-tools.html
    """
    import onnxruntime as ort

    options = options or ort.SessionOptions()
    options.enable_profiling = True
    options.profile_file_prefix = str(prefix)
    return options


def _preload_cuda() -> None:
    """Load CUDA and cuDNN from NVIDIA's wheels, where pip put them; the loader doesn't look there.

    What isn't found is printed by ONNX Runtime, and found in the usual places or missed later.
    https://onnxruntime.ai/docs/execution-providers/CUDA-ExecutionProvider.html#preload-dlls
    """
    import onnxruntime as ort

    with redirect_stdout(io.StringIO()):
        ort.preload_dlls()


def enqueue_options(device: str) -> ort.RunOptions | None:
    """Return what lets a run end once all of it is enqueued; None where the host computes it."""
    import onnxruntime as ort

    if device == "cpu":
        return None
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    return options


@contextmanager
def backend_errors(folder: Path) -> Iterator[None]:
    """Turn ONNX Runtime's errors into ours, in one line."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    try:
        yield
    except WanrtError:
        raise
    except state.NotImplemented as error:
        raise UnsupportedError(f"{folder}: ONNX Runtime can't run it: {_line(error)}") from error
    except Exception as error:
        named = isinstance(error, RuntimeError | UnicodeDecodeError)  # a name that isn't UTF-8
        if type(error).__module__ != state.__name__ and not named:
            raise
        raise EngineError(f"{folder}: ONNX Runtime: {_line(error)}") from error


def to_ortvalue(name: str, value: object) -> ort.OrtValue:
    """Return an array or DLPack tensor as an OrtValue, without copying contiguous memory.

    Raises:
        EngineError: it is neither, or it can't be exported (for instance it requires a gradient).
    """
    import onnxruntime as ort

    if isinstance(value, np.ndarray):
        return _from_numpy(name, value)
    if not hasattr(value, "__dlpack__") or not hasattr(value, "__dlpack_device__"):
        raise EngineError(
            f"input {name} is a {type(value).__name__}, neither a numpy array nor a DLPack tensor"
        )
    try:
        if value.__dlpack_device__()[0] == DLPACK_CPU:
            return _from_numpy(name, np.from_dlpack(value))
    except (BufferError, RuntimeError, TypeError):
        pass  # numpy has no bf16; ONNX Runtime takes it, and says why it refuses anything else
    try:
        return ort.OrtValue.from_dlpack(value)
    except (AttributeError, BufferError, RuntimeError, TypeError) as error:
        raise EngineError(f"input {name} can't be taken by DLPack: {_line(error)}") from error


def wrap_array(array: Array) -> ort.OrtValue:
    """Return an OrtValue over an array's own memory, bf16 included."""
    import onnxruntime as ort

    if array.dtype == NUMPY["bf16"]:
        words = array.view(np.uint16)
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(words, ONNX["bf16"])
    return ort.OrtValue.ortvalue_from_numpy(array)


def _from_numpy(name: str, array: Array) -> ort.OrtValue:
    plain = array.dtype.kind in "fiub" or array.dtype == NUMPY["bf16"]
    if not plain or not array.dtype.isnative:
        raise EngineError(f"input {name} has dtype {array.dtype.str}")
    return wrap_array(np.require(array, requirements=["C", "A"]))


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())
