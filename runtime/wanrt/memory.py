"""Which engines are loaded together: all, or pairs with their baseline if all don't fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wanrt.candidates import Candidate, find_baseline
from wanrt.rounds import Entry

__all__ = ["Room", "plan_sets"]


@dataclass(frozen=True)
class Room:
    """The device's memory.

    `repacked` says that loading copies the weights once more, as a CPU does; `mapped` that they
    stay in the file's pages, which needn't fit. `streamed` is how many bytes of weights a TensorRT
    engine keeps on the device at most.
    """

    available: int | None
    repacked: bool = False
    mapped: bool = False
    streamed: int | None = None

    def need(self, entries: Sequence[Entry]) -> int:
        """Estimate what loading the entries takes: each engine's weights."""
        loads = {entry.candidate.loads_as: entry.candidate for entry in entries}
        return sum(self._weights(candidate) for candidate in loads.values())

    def _weights(self, candidate: Candidate) -> int:
        size = candidate.manifest.weight_bytes
        if candidate.rival is not None:
            return size
        if self.streamed is not None:
            return min(size, self.streamed)
        return size * (2 if self.repacked else 1)

    def holds(self, entries: Sequence[Entry]) -> bool:
        """Tell whether the entries fit; where nobody knows, one engine at a time does."""
        if self.available is None:
            return len({entry.candidate.loads_as for entry in entries}) < 2
        return self.need(entries) <= self.available


def plan_sets(entries: Sequence[Entry], room: Room) -> tuple[list[list[Entry]], list[str]]:
    """Return what is loaded together, set by set, and notes on it; mark what can't be loaded."""
    for entry in entries:
        if entry.active:
            _skip_unless_fit([entry], [entry], room)
    active = [entry for entry in entries if entry.active]
    if not active or room.holds(active):
        return ([active] if active else []), []
    sets = _pair(active, room)
    if len(sets) < 2 and room.available is None:
        return sets, []
    why = "free device memory isn't known (pip install nvidia-ml-py)"
    if room.available is not None:
        need = _gib(room.need(active))
        why = f"the engines need about {need} together, {_gib(room.available)} are free"
    paired = any(len(one) > 1 for one in sets)
    how = "in pairs with their baseline" if paired else "one at a time, without ratios"
    return sets, [f"{why}: measured {how}"]


def _pair(active: Sequence[Entry], room: Room) -> list[list[Entry]]:
    sets: list[list[Entry]] = []
    for key in dict.fromkeys(entry.candidate.loads_as for entry in active):
        members = [entry for entry in active if entry.candidate.loads_as == key]
        found = find_baseline(members[0].candidate, [entry.candidate for entry in active])
        base = next((entry for entry in active if entry.candidate is found), None)
        if base is None or base is members[0]:
            continue
        _skip_unless_fit(members, [base, *members], room)
        if members[0].active:
            sets.append([base, *members])
    paired = {id(entry) for one in sets for entry in one}
    return sets + [[entry] for entry in active if entry.active and id(entry) not in paired]


def _skip_unless_fit(members: Sequence[Entry], together: Sequence[Entry], room: Room) -> None:
    if room.available is None or room.mapped or room.holds(together):
        return
    what = "" if len(together) == len(members) else " together with its baseline"
    remedy = " (--mapped needs half)" if room.repacked else ""
    for entry in members:
        entry.skipped = (
            f"needs about {_gib(room.need(together))} of memory{what}, "
            f"{_gib(room.available)} are free{remedy}"
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
