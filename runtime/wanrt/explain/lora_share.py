"""What an unmerged adapter takes of an engine's kernels, those that layers share included."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import prod
from typing import Final

from wanrt.explain.work import ADAPTER, Sums, Work, sum_up

__all__ = ["sum_adapter"]

DOWN: Final = ADAPTER[0]
COPIES: Final = re.compile(r"(__myl_)?(Resh|Tran|Move|Conc)*Conc(Resh|Tran|Move|Conc)*")
"""A kernel of these alone computes nothing: it is there to put values side by side."""


def sum_adapter(work: Iterable[Work]) -> Sums:
    """Return what kernels do for an adapter: its own, and its columns of layers' products.

    A product over [x, t] and [W, B] reads t = x A^T and B for the adapter alone, and a kernel that
    copies x and t into one buffer runs for it alone. The products by A say which buffers hold t.
    """
    work = list(work)
    own = sum_up(one for one in work if one.adapter)
    moved, flops = own.moved, own.flops
    ranks: dict[str, int] = {}  # buffer -> columns of t in it
    for one in work:
        outputs = one.kernel.outputs
        if one.adapter and one.flops and any(DOWN in node for node in one.kernel.nodes):
            ranks |= {y.place[0]: y.shape[-1] for y in outputs}
        held = [x for x in one.kernel.inputs if x.place[0] in ranks and not one.adapter]
        if not held:
            continue
        x = max(held, key=lambda operand: operand.shape[-1])
        rank, wide = ranks[x.place[0]], x.shape[-1]
        if one.flops and wide > rank:
            rows = prod(x.shape[:-1])
            share = one.flops * rank // wide
            flops += share
            # t [rows, rank], and B [share / (2 rows rank), rank]
            moved += x.bytes * rank // wide + share * x.bytes // (2 * rows * rows * wide)
        elif not one.flops and COPIES.fullmatch(one.kernel.name):
            moved += one.kernel.bytes
            ranks |= {y.place[0]: rank for y in outputs}
    return Sums(moved, flops, own.seconds)
