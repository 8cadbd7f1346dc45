"""The process that builds one plan: `python -m wanexport.tensorrt.worker`, a job in, messages out.

A builder may crash or run out of memory; it then takes this process with it and nothing else. One
JSON message per line goes to what was standard output; whatever the library itself prints goes to
standard error.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel

from wanexport.errors import BuildError
from wanexport.tensorrt.network import (
    check_network,
    configure,
    count_layers,
    mark_refittable,
    parse_network,
)
from wanexport.tensorrt.protocol import (
    BuilderJob,
    BuilderProblem,
    Finished,
    Phase,
    Toolchain,
    exhausted,
    is_exhausted,
)
from wanrt.backends.tensorrt import api as trt
from wanrt.backends.tensorrt.cuda import find_gpu, open_cuda
from wanrt.backends.tensorrt.library import open_plan
from wanrt.errors import UnsupportedError, UserError, WanrtError
from wanrt.storage.files import atomic_file
from wanrt.storage.interrupt import leave_to_parent
from wanrt.terminal.units import show_bytes

if TYPE_CHECKING:
    from wanexport.tensorrt.callbacks import Logger

PR_SET_PDEATHSIG = 1
PIECE_BYTES = 1 << 20  # larger writes are slow on some kernels; see wanexport.storage.tensor_file
OLDEST = 80  # TensorRT-RTX has no fp32 matrix products for Turing


def main() -> None:
    """Answer the question on standard input."""
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    leave_to_parent()

    def send(message: BaseModel) -> None:
        messages.write(message.model_dump_json() + "\n")

    asked = json.loads(sys.stdin.read())
    try:
        trt.select(asked["backend"])
        send(
            describe_toolchain(asked["backend"])
            if len(asked) == 1
            else build(BuilderJob(**asked), send)
        )
    except UserError as error:
        send(BuilderProblem(message=str(error), hint=error.hint))
    except MemoryError:
        problem = exhausted(asked.get("memory_limit"))
        send(BuilderProblem(message=str(problem), hint=problem.hint))


def describe_toolchain(backend: str) -> Toolchain:
    """Return the library and GPU that build plans on this machine."""
    try:
        gpu, reason = open_cuda().gpu(), None
    except UnsupportedError as error:
        gpu, reason = None, f"{error} ({error.hint})"
    known = [
        int(name[2:])
        for name in dir(getattr(trt, "ComputeCapability", None))
        if re.fullmatch(r"SM\d+", name)
    ]
    return Toolchain.model_validate(
        {
            "backend": backend,
            "library": trt.version(),
            "gpu": gpu and gpu.name,
            "capability": gpu and gpu.capability,
            "no_gpu": reason,
            "capabilities": [f"{n // 10}.{n % 10}" for n in sorted(known) if n >= OLDEST],
        }
    )


def build(job: BuilderJob, on_phase: Callable[[Phase], None]) -> Finished:
    """Build a plan, or only parse and check its model.

    Raises:
        BuildError: the library can't, or the disk is full.
    """
    if job.memory_limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (job.memory_limit, job.memory_limit))
    from wanexport.tensorrt.callbacks import Logger

    finished = _build(job, Logger(), on_phase)  # its builder is gone when the plan is looked at
    return finished.model_copy(update={"engine": _inspect(job)})


def _build(job: BuilderJob, logger: Logger, on_phase: Callable[[Phase], None]) -> Finished:
    from wanexport.tensorrt.callbacks import Monitor

    builder = trt.Builder(logger)
    network, parser = parse_network(builder, logger, Path(job.model))
    check_network(network, job)
    mark_refittable(network, job.refittable)
    config = configure(builder, network, job)
    config.progress_monitor = Monitor(on_phase)
    layers = count_layers(network)
    if job.plan is None:
        return Finished(layers=layers)
    cache = _open_timing_cache(config, job)
    plan = builder.build_serialized_network(network, config)
    del parser  # until here it held the mapped weights
    if plan is None:
        raise _explain(logger.errors, job)
    if cache is not None:
        _save_timing_cache(cache, Path(job.timing_cache or ""))
    digest = _write(Path(job.plan), plan)
    return Finished(bytes=plan.nbytes, sha256=digest, layers=layers)


def _write(path: Path, plan: trt.IHostMemory) -> str:
    """Write a plan straight from TensorRT's memory and return its SHA-256."""
    data = np.frombuffer(memoryview(plan), np.uint8).data
    digest = hashlib.sha256()
    try:
        with path.open("wb") as file:
            for start in range(0, len(data), PIECE_BYTES):
                piece = data[start : start + PIECE_BYTES]
                file.write(piece)
                digest.update(piece)
    except OSError as error:
        raise BuildError(
            f"the plan of {show_bytes(len(data))} can't be written: {error.strerror}",
            "free disk space, or use --out on a larger disk",
        ) from None
    return digest.hexdigest()


def _open_timing_cache(config: trt.IBuilderConfig, job: BuilderJob) -> trt.ITimingCache | None:
    """Let the build use and extend the timings that earlier builds kept."""
    if job.timing_cache is None:
        return None
    path = Path(job.timing_cache)
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _save_timing_cache(cache: trt.ITimingCache, path: Path) -> None:
    with atomic_file(path) as file:
        file.write(memoryview(cache.serialize()))


def _inspect(job: BuilderJob) -> str | None:
    """Return TensorRT's own description of the engine, on a GPU that the plan is for."""
    gpu = find_gpu()
    elsewhere = gpu and job.capabilities and gpu.capability not in job.capabilities
    if job.plan is None or gpu is None or elsewhere:
        return None
    try:
        engine = open_plan(Path(job.plan), host_code=job.version_compatible)
        inspector = engine.create_engine_inspector()
        return inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    except (WanrtError, MemoryError):
        return None  # the plan is built; whether it runs is for the verification to say


def _explain(errors: list[str], job: BuilderJob) -> BuildError:
    """Return why a build failed, from what the library logged, and what to change."""
    told = " ".join(errors)
    if is_exhausted(told):
        return exhausted(job.memory_limit)
    if "dedicated kernel" in told:
        return BuildError(
            "TensorRT has no fused kernel for an attention of this graph",
            "build with --dtype fp16 or bf16 (fp32 attention is never fused), or accept slow "
            "attention whose scores take memory with --allow-unfused",
        )
    limited = "if memory ran out: raise --memory-limit" if job.memory_limit else ""
    return BuildError(f"TensorRT can't build it: {_last(errors)}", limited)


def _last(errors: list[str]) -> str:
    return " ".join(errors[-1].split())[:500] if errors else "no reason given"


if __name__ == "__main__":
    main()
