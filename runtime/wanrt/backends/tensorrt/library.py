"""What all TensorRT objects of the process share: the log, the dtypes' names, plans from files."""

from __future__ import annotations

import logging
import mmap
from collections import deque
from functools import cache
from pathlib import Path

from wanrt.backends.tensorrt import api as trt
from wanrt.errors import EngineError
from wanrt.manifest.fields import Dtype

__all__ = ["dtype_name", "fail", "open_log", "open_plan", "sizes", "trt_dtype"]

log = logging.getLogger(__name__)
_errors: deque[str] = deque(maxlen=3)


@cache
def open_log() -> trt.ILogger:
    """Return the log of all TensorRT objects: the library keeps the first that it is given."""

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                _errors.append(" ".join(msg.split()))
            log.debug("%s", msg)

    return Log()


def fail(what: str, hint: str = "") -> EngineError:
    """Return the error for what TensorRT refused, with what it logged since the last one."""
    told = "; ".join(dict.fromkeys(_errors))
    _errors.clear()
    return EngineError(f"{what}: {told}" if told else what, hint)


def trt_dtype(dtype: Dtype) -> trt.DataType:
    """Return TensorRT's name of a manifest's dtype."""
    return _dtypes()[dtype]


def dtype_name(dtype: trt.DataType) -> str:
    """Return the manifest's name of a dtype, or TensorRT's for what no manifest has."""
    known = {value: name for name, value in _dtypes().items()}
    return known.get(dtype) or str(dtype)


def sizes(dims: trt.Dims) -> tuple[int, ...]:
    """Return TensorRT's shape as a tuple; -1 is a size that isn't known yet."""
    return tuple(dims[axis] for axis in range(len(dims)))


def _dtypes() -> dict[Dtype, trt.DataType]:
    return {"fp32": trt.DataType.FLOAT, "fp16": trt.DataType.HALF, "bf16": trt.DataType.BF16}


def open_plan(path: Path, *, host_code: bool = False) -> trt.ICudaEngine:
    """Deserialize a plan out of the file's own pages; the engine keeps its runtime alive.

    `host_code` lets a version-compatible plan bring the library that it runs with.

    Raises:
        EngineError: the file can't be read, or TensorRT refuses it.
    """
    runtime = trt.Runtime(open_log())
    if host_code:
        runtime.engine_host_code_allowed = True
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            engine = runtime.deserialize_cuda_engine(pages)
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} can't be read: {error}") from None
    if engine is None:
        raise fail(f"{path}: TensorRT refuses the plan")
    return engine
