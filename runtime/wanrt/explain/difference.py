"""Where the kernels of two engines differ, in their order."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from wanrt.explain.work import Work

__all__ = ["Difference", "compare_kernels"]


@dataclass(frozen=True)
class Difference:
    """Kernels that stand in the place of one another; either side may be empty."""

    ours: tuple[Work, ...]
    theirs: tuple[Work, ...]


def compare_kernels(ours: Sequence[Work], theirs: Sequence[Work]) -> tuple[Difference, ...]:
    """Return the runs of kernels that differ: by layer, dtypes and shapes, flops, or operator."""
    matcher = SequenceMatcher(None, list(map(_key, theirs)), list(map(_key, ours)), autojunk=False)
    return tuple(
        Difference(tuple(ours[k:m]), tuple(theirs[i:j]))
        for tag, i, j, k, m in matcher.get_opcodes()
        if tag != "equal"
    )


def _key(work: Work) -> Hashable:
    sides = (work.kernel.inputs, work.kernel.outputs)
    shapes = tuple(tuple(sorted((o.dtype, o.shape) for o in side)) for side in sides)
    measured = work.kernel.seconds is not None
    return (
        work.label if work.flops else "",
        work.kernel.kind if measured else "",
        shapes,
        work.flops,
    )
