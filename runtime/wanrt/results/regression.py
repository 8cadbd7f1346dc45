"""A bench against an earlier one of the same engines: what became slower since.

Two benches are two states of a machine, which no interval within one of them covers. So what has a
ratio to `full`, measured beside it both times, is judged by that; `full` itself by its own speed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

from wanrt.errors import ResultsError
from wanrt.machine.describe import Machine
from wanrt.results.result import BenchResult, CandidateResult
from wanrt.results.stats import Estimate, compare_samples
from wanrt.results.values import TICK_S, Ratio

__all__ = ["Change", "check_comparable", "compare_results", "list_differences"]

STABLE_OPTIONS = {
    "device": "cpu", "threads": None, "mapped": False, "warmup": 1, "weight_streaming": None,
    "cuda_graph": True,
}  # fmt: skip
"""Options that change figures, and what benches had that didn't know them yet."""


@dataclass(frozen=True)
class Change:
    """How much faster a candidate became: 0.02 is 2 %.

    `low` to `high` is the 95 % interval, None where one of the benches has a single load; `now` is
    None for what isn't measured any more. `failed` says that it became slower than allowed beyond
    doubt, or is gone.
    """

    name: str
    of: str
    before: float
    now: float | None
    value: float = 0.0
    low: float | None = None
    high: float | None = None
    failed: bool = False


def check_comparable(machine: Machine, options: dict[str, object], earlier: BenchResult) -> None:
    """Refuse an earlier bench whose figures would differ for other reasons than the engines.

    Raises:
        ResultsError: another machine, other versions, or other options.
    """
    for name, (before, value) in list_differences(earlier, machine, options).items():
        raise ResultsError(
            f"the earlier bench ran with another {name} ({before}, now {value}): the engines "
            "are not all that changed",
            "compare anyway with --force",
        )


def list_differences(
    result: BenchResult, machine: Machine, options: dict[str, object]
) -> dict[str, tuple[object, object]]:
    """Return what changes figures and differs from another bench's machine and options.

    By name: (the result's own, the other's).
    """
    found = result.machine.list_differences(machine)
    for name, old in STABLE_OPTIONS.items():
        own, other = result.options.get(name, old), options.get(name, old)
        if own != other:
            found[name] = own, other
    return found


def compare_results(
    now: BenchResult, earlier: BenchResult, fail_above: float | None
) -> list[Change]:
    """Return what became of every candidate that the earlier bench measured.

    Args:
        now: this bench.
        earlier: the one before.
        fail_above: how much slower a candidate may be, 0.02 for 2 %; None allows anything.

    Raises:
        ResultsError: they share no candidate.
    """
    found, before = _measured(now), _measured(earlier)
    if not found.keys() & before.keys():
        raise ResultsError("the earlier bench measured none of these candidates")
    names = _names(earlier)
    return [_compare(names[key], row, found.get(key), fail_above) for key, row in before.items()]


def _measured(result: BenchResult) -> dict[tuple[str, ...], CandidateResult]:
    return {
        (group.model, group.workload, row.label, row.dtype): row
        for group in result.groups
        for row in group.candidates
        if row.forwards and not row.control
    }


def _names(result: BenchResult) -> dict[tuple[str, ...], str]:
    several = len(result.groups) > 1
    return {
        (group.model, group.workload, row.label, row.dtype): (
            f"{group.model} {group.workload} " if several else ""
        )
        + group.row_name(row)
        for group in result.groups
        for row in group.candidates
    }


def _compare(
    name: str, before: CandidateResult, row: CandidateResult | None, fail_above: float | None
) -> Change:
    rate = before.tokens_per_s or 0.0
    if row is None:
        return Change(name, "gone", rate, None, failed=fail_above is not None)
    of, estimate = "speed", compare_samples(_log_levels(before), _log_levels(row))
    if _judged(before.ratio) and _judged(row.ratio):
        of, estimate = "to full", _compare_ratios(before.ratio, row.ratio)
    low, high = (None if end is None else math.expm1(end) for end in (estimate.low, estimate.high))
    failed = fail_above is not None and high is not None and high < -fail_above
    value = math.expm1(estimate.value)
    return Change(name, of, rate, row.tokens_per_s, value, low, high, failed)


def _judged(ratio: Ratio | None) -> bool:
    return ratio is not None and ratio.verdict != "baseline"


def _compare_ratios(before: Ratio | None, now: Ratio | None) -> Estimate:
    """Return the log of two ratios' quotient; independent intervals add by their squares."""
    assert before is not None
    assert now is not None
    value = math.log(now.value / before.value)
    reaches = []
    for ratio in (before, now):
        if ratio.low is None or ratio.high is None:
            return Estimate(value)
        reaches.append(math.log(ratio.high / ratio.low) / 2)
    reach = math.hypot(*reaches)
    return Estimate(value, value - reach, value + reach)


def _log_levels(row: CandidateResult) -> list[float]:
    """Return the logarithm of each load's median forward."""
    loads: dict[int, list[float]] = {}
    for forward in row.forwards:
        loads.setdefault(forward.load, []).append(forward.seconds)
    return [math.log(max(TICK_S, median(seconds))) for seconds in loads.values()]
