"""A bench against an earlier one of the same engines: what became slower since."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median

from wanrt.errors import ResultsError
from wanrt.headline import row_name
from wanrt.machine import Machine
from wanrt.results import BenchResult, CandidateResult
from wanrt.stats import compare_samples
from wanrt.units import RATES, pick, show

__all__ = ["Change", "compare_results", "render_changes"]


@dataclass(frozen=True)
class Change:
    """How a candidate's tokens per second changed: 0.02 is 2 % faster.

    `low` to `high` is the 95 % interval over the loads of both benches (Welch's), None where one of
    them has a single load. `failed` says that it became slower than allowed, and beyond doubt.
    """

    name: str
    before: float
    now: float
    value: float
    low: float | None
    high: float | None
    failed: bool


def compare_results(
    now: BenchResult, earlier: BenchResult, fail_above: float | None, *, force: bool = False
) -> list[Change]:
    """Return what changed of every candidate that both benches measured.

    Args:
        now: this bench.
        earlier: the one before.
        fail_above: how much slower a candidate may be, 0.02 for 2 %; None allows anything.
        force: compare across machines and versions.

    Raises:
        ResultsError: they ran on other machines or versions, or share no candidate.
    """
    if not force and (differs := _difference(now.machine, earlier.machine)):
        raise ResultsError(
            f"the earlier bench ran with another {differs}: the engines are not all that changed",
            "compare all the same with --force",
        )
    before = {key: row for key, row in _measured(earlier).items() if row.tokens_per_s}
    changes = [
        _compare(name, row, before[key], fail_above)
        for (key, row), name in zip(_measured(now).items(), _names(now), strict=True)
        if key in before
    ]
    if not changes:
        raise ResultsError("the earlier bench measured none of these candidates")
    return changes


def render_changes(changes: Sequence[Change], where: str) -> str:
    """Return a line per candidate."""
    width = max(len(change.name) for change in changes)
    unit = pick(RATES, min(change.now for change in changes))
    lines = [f"compared with {where}"]
    for change in changes:
        interval = ""
        if change.low is not None and change.high is not None:
            interval = f" ({change.low:+.2%} to {change.high:+.2%})"
        mark = "  SLOWER" if change.failed else ""
        rates = f"{show(change.before, unit)} -> {show(change.now, unit)} tok/s"
        lines.append(f"  {change.name:<{width}}  {rates}  {change.value:+.2%}{interval}{mark}")
    return "\n".join(lines) + "\n"


def _difference(now: Machine, earlier: Machine) -> str:
    """Name the first fact of the machine that differs and matters, or nothing."""
    passing = {"load_average": 0.0, "gpu_processes": ()}
    first, second = (replace(machine, **passing) for machine in (now, earlier))  # type: ignore[arg-type]
    for name, value in vars(first).items():
        if value != getattr(second, name):
            return f"{name} ({getattr(second, name)}, now {value})"
    return ""


def _measured(result: BenchResult) -> dict[tuple[str, ...], CandidateResult]:
    return {
        (group.model, group.workload, row.label, row.dtype): row
        for group in result.groups
        for row in group.candidates
        if row.forwards and not row.control
    }


def _names(result: BenchResult) -> list[str]:
    several = len(result.groups) > 1
    return [
        (f"{group.model} {group.workload} " if several else "") + row_name(row, group)
        for group in result.groups
        for row in group.candidates
        if row.forwards and not row.control
    ]


def _compare(
    name: str, row: CandidateResult, before: CandidateResult, fail_above: float | None
) -> Change:
    estimate = compare_samples(_log_levels(before), _log_levels(row))
    value = math.expm1(estimate.value)
    low = None if estimate.low is None else math.expm1(estimate.low)
    high = None if estimate.high is None else math.expm1(estimate.high)
    failed = fail_above is not None and value < -fail_above and (high is None or high < 0)
    return Change(
        name, before.tokens_per_s or 0.0, row.tokens_per_s or 0.0, value, low, high, failed
    )


def _log_levels(row: CandidateResult) -> list[float]:
    """Return the logarithm of each load's median forward."""
    loads: dict[int, list[float]] = {}
    for forward in row.forwards:
        loads.setdefault(forward.load, []).append(forward.seconds)
    return [math.log(median(seconds)) for seconds in loads.values()]
