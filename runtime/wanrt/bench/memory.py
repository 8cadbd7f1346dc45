"""Which engines are loaded together: all, or pairs with their baseline if all don't fit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wanrt.bench.candidates import Candidate, find_baseline
from wanrt.bench.rounds import Entry
from wanrt.engine.engine import DeviceKind
from wanrt.manifest.fields import ADAPTER_ROLES
from wanrt.storage.dtypes import NUMPY
from wanrt.terminal.units import show_bytes

__all__ = ["MemoryBudget", "choose_sets"]

# What running op by op keeps, as multiples of the least that a layer needs: measured with the demo
# on a CPU, 5.5 to 5.8 in fp32 and 18 in fp16, whose kernels cast; taken for a GPU, unmeasured.
SLACK = 6
SLACK_FP16_CPU = 18


@dataclass(frozen=True)
class MemoryBudget:
    """The device's memory, and how a workload's engines use it.

    `mapped` says that weights stay in the file's pages, which needn't fit; without it a CPU copies
    them once more. `streamed` is how many bytes of weights a TensorRT engine keeps on the device.
    """

    available: int | None
    workload: str
    device: DeviceKind = "cpu"
    mapped: bool = False
    streamed: int | None = None

    @property
    def repacked(self) -> bool:
        """Whether loading copies the weights once more."""
        return self.device == "cpu" and not self.mapped

    def need(self, entries: Sequence[Entry]) -> int:
        """Estimate what loading and running the entries takes.

        Every load has weights of its own, the adapter's inputs and activations, also of engines
        whose weights are the same file's. Idle engines keep what they ran in.
        """
        loads = {entry.candidate.loads_as: entry.candidate for entry in entries}
        return sum(self._need(candidate) for candidate in loads.values())

    def _need(self, candidate: Candidate) -> int:
        manifest = candidate.manifest
        weights = manifest.weight_bytes
        if candidate.rival is None and self.streamed is not None:
            weights = min(weights, self.streamed)
        elif candidate.rival is None and self.repacked:
            weights *= 2
        adapter = sum(
            NUMPY[spec.dtype].itemsize
            * math.prod(dim for dim in spec.shape if isinstance(dim, int))
            for graph in manifest.graphs.values()
            for spec in graph.inputs
            if spec.role in ADAPTER_ROLES
        )
        slack = SLACK_FP16_CPU if (self.device, manifest.dtype) == ("cpu", "fp16") else SLACK
        if manifest.forward.plan is not None and candidate.rival is None:
            slack = 1  # TensorRT plans its memory
        activations = manifest.workloads[self.workload].activation_bytes
        return weights + adapter + slack * activations

    def holds(self, entries: Sequence[Entry]) -> bool:
        """Tell whether the entries fit; where nobody knows, one engine at a time does."""
        if self.available is None:
            return len({entry.candidate.loads_as for entry in entries}) < 2
        return self.need(entries) <= self.available


def choose_sets(
    entries: Sequence[Entry], budget: MemoryBudget
) -> tuple[list[list[Entry]], list[str]]:
    """Return what is loaded together, set by set, and notes on it; mark what can't be loaded."""
    for entry in entries:
        if entry.active:
            _skip_unless_fit([entry], [entry], budget)
    active = [entry for entry in entries if entry.active]
    if not active or budget.holds(active):
        return ([active] if active else []), []
    sets = _pair(active, budget)
    if len(sets) < 2 and budget.available is None:
        return sets, []
    why = "free device memory isn't known (pip install nvidia-ml-py)"
    if budget.available is not None:
        need = show_bytes(budget.need(active))
        why = f"the engines need about {need} together, {show_bytes(budget.available)} are free"
    paired = any(len(one) > 1 for one in sets)
    how = "in pairs with their baseline" if paired else "one at a time, without ratios"
    return sets, [f"{why}: measured {how}"]


def _pair(active: Sequence[Entry], budget: MemoryBudget) -> list[list[Entry]]:
    sets: list[list[Entry]] = []
    for key in dict.fromkeys(entry.candidate.loads_as for entry in active):
        members = [entry for entry in active if entry.candidate.loads_as == key]
        found = find_baseline(members[0].candidate, [entry.candidate for entry in active])
        base = next((entry for entry in active if entry.candidate is found), None)
        if base is None or base is members[0]:
            continue
        _skip_unless_fit(members, [base, *members], budget)
        if members[0].active:
            sets.append([base, *members])
    paired = {id(entry) for one in sets for entry in one}
    return sets + [[entry] for entry in active if entry.active and id(entry) not in paired]


def _skip_unless_fit(
    members: Sequence[Entry], together: Sequence[Entry], budget: MemoryBudget
) -> None:
    if budget.available is None or budget.mapped or budget.holds(together):
        return
    what = "" if len(together) == len(members) else " together with its baseline"
    remedy = " (--mapped needs less)" if budget.repacked else ""
    for entry in members:
        entry.skipped = (
            f"needs about {show_bytes(budget.need(together))} of memory{what}, "
            f"{show_bytes(budget.available)} are free{remedy}"
        )
