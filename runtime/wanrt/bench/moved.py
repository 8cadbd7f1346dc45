"""What an engine's kernels move, read from its plan where that can be: no measurement."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from wanrt.bench.candidates import Candidate
from wanrt.errors import EngineError
from wanrt.explain.plan import read_kernels
from wanrt.explain.work import examine, sum_by_part

__all__ = ["moved_by_part"]


def moved_by_part(candidate: Candidate, workload: str) -> dict[str, int] | None:
    """Return the bytes that a TensorRT-RTX engine's kernels move in a forward, by part.

    None for other engines and rivals, and where the plan can't be read or has the shapes of another
    workload.
    """
    plan = candidate.manifest.forward.plan
    if plan is None or candidate.rival is not None or plan.profiles[:1] != (workload,):
        return None
    return _read(candidate.folder / plan.file)


@cache  # rows are made again after every round
def _read(plan: Path) -> dict[str, int] | None:
    try:
        work = examine(read_kernels(plan))
    except EngineError:
        return None
    return {part: sums.moved for part, sums in sum_by_part(work).items()}
