"""The process that builds one plan: `python -m wanexport.trt_worker`, a job in, messages out.

A builder may crash or run out of memory; it then takes this process with it and nothing else. One
JSON message per line goes to what was standard output; whatever the library itself prints goes to
standard error.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel

from wanexport.disk import format_bytes
from wanexport.errors import BuildError, WanExportError
from wanexport.trt_job import Finished, Job, Phase, Problem, Toolchain
from wanexport.trt_network import (
    check_network,
    configure,
    count_layers,
    mark_refittable,
    parse_network,
)
from wanrt import nvinfer as trt
from wanrt.errors import WanrtError
from wanrt.gpus import find_gpu

if TYPE_CHECKING:
    from wanexport.trt_callbacks import Logger

PR_SET_PDEATHSIG = 1
EXHAUSTED = ("bad_alloc", "OutOfMemory", "out of memory", "Resource temporarily unavailable")
OLDEST = 80  # TensorRT-RTX has no fp32 matrix products for Turing


def main() -> None:
    """Answer the question on standard input."""
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)

    def send(message: BaseModel) -> None:
        messages.write(message.model_dump_json() + "\n")

    asked = json.loads(sys.stdin.read())
    try:
        trt.select(asked["backend"])
        send(describe_toolchain(asked["backend"]) if len(asked) == 1 else build(Job(**asked), send))
    except (WanExportError, WanrtError) as error:
        send(Problem(message=str(error), hint=error.hint))


def describe_toolchain(backend: str) -> Toolchain:
    """Say what builds plans here."""
    gpu, capability = _find_gpu()
    known = [
        int(name[2:])
        for name in dir(getattr(trt, "ComputeCapability", None))
        if re.fullmatch(r"SM\d+", name)
    ]
    return Toolchain.model_validate(
        {
            "backend": backend,
            "library": trt.version(),
            "gpu": gpu,
            "capability": capability,
            "capabilities": [f"{n // 10}.{n % 10}" for n in sorted(known) if n >= OLDEST],
        }
    )


def build(job: Job, on_phase: Callable[[Phase], None]) -> Finished:
    """Build a plan, or only parse and check its model.

    Raises:
        BuildError: the library can't.
    """
    if job.memory_limit is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (job.memory_limit, job.memory_limit))
    from wanexport.trt_callbacks import Logger, Monitor, Writer

    logger = Logger()
    builder = trt.Builder(logger)
    network, parser = parse_network(builder, logger, Path(job.model))
    check_network(network, job)
    mark_refittable(network, job.refittable)
    config = configure(builder, network, job)
    config.progress_monitor = Monitor(on_phase)
    if job.plan is None:
        return Finished(layers=count_layers(network))
    cache = _open_timing_cache(config, job)
    writer = Writer(Path(job.plan))
    built = builder.build_serialized_network_to_stream(network, config, writer)
    digest = writer.close()
    del parser  # until here it held the mapped weights
    if not built or not writer.bytes:
        raise _explain(logger.errors, job)
    if cache is not None:
        _save_timing_cache(cache, Path(job.timing_cache or ""))
    layers = count_layers(network)
    return Finished(
        bytes=writer.bytes, sha256=digest, layers=layers, engine=_inspect(logger, Path(job.plan))
    )


def _find_gpu() -> tuple[str | None, str | None]:
    """Return the first GPU's name and compute capability, or nothing where there is none."""
    found = find_gpu()
    return (found.name, found.capability) if found else (None, None)


def _open_timing_cache(config: trt.IBuilderConfig, job: Job) -> trt.ITimingCache | None:
    """Let the build use and extend the timings that earlier builds kept."""
    if job.timing_cache is None:
        return None
    path = Path(job.timing_cache)
    cache = config.create_timing_cache(path.read_bytes() if path.exists() else b"")
    config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _save_timing_cache(cache: trt.ITimingCache, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(memoryview(cache.serialize()))
    temporary.replace(path)


def _inspect(logger: Logger, plan: Path) -> str | None:
    """Return TensorRT's own description of the engine; without a GPU nothing can be loaded."""
    if _find_gpu()[0] is None:
        return None
    runtime = trt.Runtime(logger)
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise BuildError(f"TensorRT can't load the plan it built: {_last(logger.errors)}")
    inspector = engine.create_engine_inspector()
    return inspector.get_engine_information(trt.LayerInformationFormat.JSON)


def _explain(errors: list[str], job: Job) -> BuildError:
    """Return why a build failed, from what the library logged, and what to change."""
    told = " ".join(errors)
    if any(sign in told for sign in EXHAUSTED):
        limit = "" if job.memory_limit is None else f" of {format_bytes(job.memory_limit)}"
        return BuildError(
            f"the builder ran out of its memory{limit}",
            "raise --memory-limit, or close what else needs memory",
        )
    if "dedicated kernel" in told:
        return BuildError(
            "TensorRT has no fused kernel for an attention of this graph",
            "build with --dtype fp16 or bf16 (fp32 attention is never fused), or accept slow "
            "attention whose scores take memory with --allow-unfused",
        )
    if "CUDA" in told and job.refit != "baked" and _find_gpu()[0] is None:
        return BuildError(
            f"a plan of --refit {job.refit} can't be built without a GPU and its driver",
            "put the weights into the plan with --bake, or build on the GPU that is to run it",
        )
    return BuildError(f"TensorRT can't build it: {_last(errors)}", "")


def _last(errors: list[str]) -> str:
    return " ".join(errors[-1].split())[:500] if errors else "no reason given"


if __name__ == "__main__":
    main()
