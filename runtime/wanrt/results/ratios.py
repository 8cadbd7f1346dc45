"""From forwards to ratios, and what may be claimed of them.

A claim needs three things: a p-value below 5 % after Holm's correction for all candidates of the
bench, at least two loads, and a ratio beyond what the controls show, which are the baseline loaded
a second time (A/A) and the merged engines, which run the baseline's own graph.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wanrt.results.stats import Estimate, compare_levels, correct_holm, level_load, loads_for
from wanrt.results.values import TICK_S, Forward, Ratio, Verdict

__all__ = ["SIGNIFICANT", "Band", "Timed", "compare_groups", "count_loads", "find_band"]

SIGNIFICANT = 0.05
Place = tuple[int, int]
Loads = frozenset[int]
Band = tuple[float, float]


@dataclass(frozen=True)
class Timed:
    """A candidate's forwards, and in its group's order the index of what it is compared with.

    `control` is an A/A; `check` a candidate that should be as fast as the baseline: merged.
    """

    forwards: Sequence[Forward]
    baseline: int | None
    control: bool = False
    check: bool = False


def compare_groups(groups: Sequence[Sequence[Timed]]) -> list[list[Ratio | None]]:
    """Return every candidate's ratio, group by group; None where there is nothing to compare."""
    estimates = [_estimate_group(group) for group in groups]
    claimable = [
        (g, i)
        for g, group in enumerate(groups)
        for i, timed in enumerate(group)
        if not timed.control and (found := estimates[g][i]) is not None and found.p is not None
    ]
    corrected = correct_holm([estimates[g][i].p or 0.0 for g, i in claimable])  # type: ignore[union-attr]
    p_values = dict(zip(claimable, corrected, strict=True))
    return [
        [_judge(group, estimates[g], i, p_values.get((g, i))) for i in range(len(group))]
        for g, group in enumerate(groups)
    ]


def find_band(group: Sequence[Timed], ratios: Sequence[Ratio | None], baseline: int) -> Band | None:
    """Return the ratios that the controls of a baseline span with 1, or None without controls."""
    return _band(
        group, [None if r is None else math.log(r.value) for r in ratios], baseline, checks=True
    )


def count_loads(group: Sequence[Timed], half_width: float, most: int) -> int:
    """Return how many loads bring every ratio of a group to the half-width, from a pilot's."""
    needed = 2
    for i, timed in enumerate(group):
        levels, columns = _level_loads(group, _loads(timed.forwards))
        if timed.baseline in (None, i) or timed.baseline not in columns or len(levels) < 2:
            continue
        pair = columns.index(i), columns.index(timed.baseline)
        needed = max(needed, loads_for(levels, *pair, half_width, most))
    return needed


def _estimate_group(group: Sequence[Timed]) -> list[Estimate | None]:
    blocks = {loads: _level_loads(group, loads) for loads in {_loads(t.forwards) for t in group}}
    found: list[Estimate | None] = []
    for i, timed in enumerate(group):
        levels, columns = blocks[_loads(timed.forwards)]
        if timed.baseline in (None, i) or i not in columns or timed.baseline not in columns:
            found.append(None)
        else:
            own, base = columns.index(i), columns.index(timed.baseline)
            found.append(compare_levels(levels, own, base))
    return found


def _level_loads(group: Sequence[Timed], loads: Loads) -> tuple[NDArray[np.float64], list[int]]:
    """Return the levels [loads, columns] of all that has these loads, which are a block each.

    Columns are indices of the group. Only rounds that all of them have count.
    """
    columns = [i for i, timed in enumerate(group) if loads and loads <= _loads(timed.forwards)]
    passes = [_log_passes(group[i].forwards) for i in columns]
    shared = sorted(set.intersection(*map(set, passes))) if passes else []
    levels = []
    for load in sorted({place[0] for place in shared}):
        rounds = [place for place in shared if place[0] == load]
        seconds = [[second for place in rounds for second in own[place]] for own in passes]
        levels.append(level_load(np.array(seconds).T))
    return (np.array(levels), columns) if levels else (np.zeros((0, 0)), [])


def _loads(forwards: Sequence[Forward]) -> Loads:
    return frozenset(forward.load for forward in forwards)


def _log_passes(forwards: Sequence[Forward]) -> dict[Place, list[float]]:
    """Return the log seconds of each load and round, there and back."""
    passes: dict[Place, list[float]] = {}
    for forward in forwards:
        seconds = math.log(max(forward.seconds, TICK_S))
        passes.setdefault((forward.load, forward.round), []).append(seconds)
    return passes


def _judge(
    group: Sequence[Timed], estimates: Sequence[Estimate | None], index: int, p: float | None
) -> Ratio | None:
    timed, estimate = group[index], estimates[index]
    if timed.baseline == index and timed.forwards:
        return Ratio(1.0, 1.0, 1.0, *_count(timed), None, "baseline")
    if estimate is None:
        return None
    if estimate.low is None or estimate.high is None:
        return Ratio(math.exp(estimate.value), None, None, *_count(timed), None, "unresolved")
    p = estimate.p if timed.control else p
    verdict: Verdict = "same"
    if p is not None and p < SIGNIFICANT and _beyond_controls(group, estimates, index):
        verdict = "faster" if estimate.value > 0 else "slower"
    low, high = math.exp(estimate.low), math.exp(estimate.high)
    return Ratio(math.exp(estimate.value), low, high, *_count(timed), p, verdict)


def _beyond_controls(
    group: Sequence[Timed], estimates: Sequence[Estimate | None], index: int
) -> bool:
    timed, estimate = group[index], estimates[index]
    if timed.control or estimate is None or timed.baseline is None:
        return True
    values = [None if found is None else found.value for found in estimates]
    band = _band(group, values, timed.baseline, checks=not timed.check) or (1.0, 1.0)
    return not band[0] <= math.exp(estimate.value) <= band[1]


def _band(
    group: Sequence[Timed], values: Sequence[float | None], baseline: int, *, checks: bool
) -> Band | None:
    shown = [
        math.exp(value)
        for timed, value in zip(group, values, strict=True)
        if value is not None
        and timed.baseline == baseline
        and (timed.control or (checks and timed.check))
    ]
    return (min(1.0, *shown), max(1.0, *shown)) if shown else None


def _count(timed: Timed) -> tuple[int, int]:
    loads = {forward.load for forward in timed.forwards}
    return len(loads), len({(forward.load, forward.round) for forward in timed.forwards})
