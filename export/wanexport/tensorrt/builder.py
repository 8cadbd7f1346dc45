"""Build TensorRT plans in a process of their own, with its memory bounded and its phases shown."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from wanexport.errors import BuildError
from wanexport.tensorrt.protocol import (
    BuilderJob,
    BuilderProblem,
    Finished,
    Phase,
    TensorRt,
    Toolchain,
    exhausted,
    is_exhausted,
)
from wanrt.terminal.units import show_bytes

__all__ = ["build_plan", "find_toolchain"]

WORKER = (sys.executable, "-m", "wanexport.tensorrt.worker")
KINDS: dict[str, type[Phase | Finished | BuilderProblem]] = {
    "phase": Phase,
    "finished": Finished,
    "problem": BuilderProblem,
}


@lru_cache
def find_toolchain(backend: TensorRt) -> Toolchain:
    """Return the library and GPU that build plans on this machine.

    Raises:
        BuildError: the library isn't installed, or `tensorrt` finds no GPU.
    """
    with _ask(json.dumps({"backend": backend})) as answers:
        for line in answers:
            answer = json.loads(line)
            if answer.get("kind") == "problem":
                raise BuildError(answer["message"], answer["hint"])
            found = Toolchain.model_validate(answer)
    if backend == "tensorrt" and found.gpu is None:
        raise BuildError(
            f"TensorRT builds on the GPU that is to run the plan; here is {found.no_gpu}",
            "build there; or for GeForce and RTX cards here: --backend tensorrt-rtx",
        )
    return found


def build_plan(job: BuilderJob, on_phase: Callable[[Phase], None]) -> Finished:
    """Build one plan, or parse its model only; nothing is left of it if that fails.

    Raises:
        BuildError: the library refuses the graph or the settings, or its process crashed.
    """
    finished = None
    try:
        with _ask(job.model_dump_json(), job.memory_limit) as answers:
            for line in answers:
                message = _parse(line)
                if isinstance(message, BuilderProblem):
                    raise BuildError(message.message, message.hint)
                if isinstance(message, Phase):
                    on_phase(message)
                else:
                    finished = message
        if finished is None:
            raise BuildError("the builder ended without a plan", "this is a bug; report it")
    except BaseException:
        if job.plan is not None:
            Path(job.plan).unlink(missing_ok=True)
        raise
    return finished


def _parse(line: str) -> Phase | Finished | BuilderProblem:
    return KINDS[json.loads(line)["kind"]].model_validate_json(line)


@contextmanager
def _ask(question: str, memory_limit: int | None = None) -> Iterator[Iterator[str]]:
    """Start a worker, yield its answers, and see that it ends well and with us."""
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        process = subprocess.Popen(
            WORKER, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            with process.stdin as stdin:
                stdin.write(question)
            yield iter(process.stdout.readline, "")
            code = process.wait()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
        if code:
            log.seek(0)
            raise _explain_crash(code, log.read(), memory_limit)


def _explain_crash(code: int, log: str, memory_limit: int | None) -> BuildError:
    if is_exhausted(log):
        return exhausted(memory_limit)
    told = [line for line in log.splitlines() if line.strip()]
    last = f": {told[-1].strip()[:300]}" if told else ""
    if code == -signal.SIGKILL:
        return BuildError("the builder was killed, most likely because memory ran out", "see dmesg")
    if code < 0:
        name = signal.Signals(-code).name
        if memory_limit is not None:  # it doesn't check all that it allocates
            return BuildError(
                f"TensorRT's builder crashed with {name}{last}; most likely its memory of "
                f"{show_bytes(memory_limit)} is too little",
                "raise --memory-limit",
            )
        return BuildError(f"TensorRT's builder crashed with {name}{last}", "report it to NVIDIA")
    return BuildError(f"the builder failed{last}", "this is a bug; report it")
