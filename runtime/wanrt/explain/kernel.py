"""One kernel of a forward: what it reads and writes, and which nodes it computes."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Final

__all__ = ["BITS", "Kernel", "Operand"]

BITS: Final = {
    "bf16": 16, "fp16": 16, "fp32": 32, "fp64": 64, "fp8": 8, "fp4": 4, "int8": 8, "int16": 16,
    "int32": 32, "int64": 64, "uint8": 8, "uint16": 16, "uint32": 32, "uint64": 64, "bool": 8,
}  # fmt: skip
"""Dtypes by the project's words, and what one value of each takes."""
EXCHANGE: Final = "comm_"  # how a plan calls what goes over NCCL: comm_alltoall, comm_allgather


@dataclass(frozen=True)
class Operand:
    """A tensor that a kernel reads or writes."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    place: tuple[str, str]  # buffer and offset: two names of one place are one tensor

    @property
    def bytes(self) -> int:
        """Return what the tensor takes in memory."""
        return prod(self.shape) * BITS[self.dtype] // 8


@dataclass(frozen=True)
class Kernel:
    """What one or more nodes of the graph became.

    Args:
        kind: as the plan calls it; an operator's type in a profile.
        name: its own.
        inputs: what it reads.
        outputs: what it writes.
        nodes: of the graph.
        stream: of a plan, on which it runs.
        seconds: of a profile, what it took.
        is_view: whether its output is its input's memory by another shape, so that nothing moves.
    """

    kind: str
    name: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    nodes: tuple[str, ...]
    stream: int | None = None
    seconds: float | None = None
    is_view: bool = False

    @property
    def exchanged(self) -> int:
        """Return the bytes that cards exchange: all that this one ends up with; 0 of others."""
        return sum(one.bytes for one in self.outputs) if self.kind.startswith(EXCHANGE) else 0

    @property
    def bytes(self) -> int:
        """Return the bytes moved, each place and shape counted once; exchanges count apart."""
        if self.is_view or self.exchanged:
            return 0
        once = {(*operand.place, operand.shape): operand for operand in self.inputs + self.outputs}
        return sum(operand.bytes for operand in once.values())
