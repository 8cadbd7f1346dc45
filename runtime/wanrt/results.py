"""What a bench measured: every figure and verdict computed once, here.

A round of a candidate is the geometric mean of its two visits. Both figures of a row come from
rounds: its forward and tokens per second from the median round, its ratio from the rounds that it
shares with the baseline, pair by pair, so that a machine that drifts hurts both alike. They may
differ by what the machine drifted; the ratio is the one to trust. `summary` is of single forwards.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

from wanrt.machine import Machine
from wanrt.stats import Summary, estimate_location, summarize
from wanrt.values import Advice, Clocks, Forward, Probe, Ratio, Verdict

__all__ = ["BenchResult", "CandidateResult", "GroupResult", "compare"]

TICK_S = 1e-9
"""A clock that saw no time pass leaves a logarithm finite."""


@dataclass(frozen=True)
class CandidateResult:
    """One row: an engine, with its adapter if it is swappable."""

    engine: str
    label: str
    mode: str
    rank: int | None
    dtype: str
    random_weights: bool
    verified: bool
    full_finetune: bool
    batch: int
    tokens: int
    flops: int
    baseline: str | None = None
    baseline_dtype: str | None = None
    forwards: tuple[Forward, ...] = ()
    control: bool = False
    rival: str | None = None
    probe: Probe = field(default_factory=Probe)
    clocks: Clocks | None = None
    predicted_s: float | None = None
    ratio: Ratio | None = None
    skipped: str | None = None
    failed: str | None = None
    advice: tuple[Advice, ...] = ()

    @property
    def summary(self) -> Summary | None:
        """The forwards in brief, or None if nothing was measured."""
        seconds = [forward.seconds for forward in self.forwards]
        return summarize(seconds) if seconds else None

    @property
    def seconds(self) -> float | None:
        """The typical forward: the median round, a round being the mean of its two visits."""
        return math.exp(median(_log_seconds(self.forwards).values())) if self.forwards else None

    @property
    def tokens_per_s(self) -> float | None:
        """Batch x tokens / the typical forward."""
        return self.batch * self.tokens / self.seconds if self.seconds else None

    @property
    def flops_per_s(self) -> float | None:
        """The manifest's flops / the typical forward."""
        return self.flops / self.seconds if self.seconds else None


@dataclass(frozen=True)
class GroupResult:
    """The candidates of one model and workload."""

    model: str
    workload: str
    candidates: tuple[CandidateResult, ...]
    rounds: int = 0
    notes: tuple[str, ...] = ()
    band: tuple[float, float] | None = None
    half_width: float | None = None


@dataclass(frozen=True)
class BenchResult:
    """Everything one bench found.

    `broken` holds the engine folders that couldn't even be read, and why.
    """

    machine: Machine
    options: dict[str, object]
    started: str
    timed: str = ""
    groups: tuple[GroupResult, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    advice: tuple[Advice, ...] = ()
    interrupted: bool = False
    device: str | None = None

    @property
    def rows(self) -> list[CandidateResult]:
        """The candidates of all groups."""
        return [row for group in self.groups for row in group.candidates]

    @property
    def ok(self) -> bool:
        """Whether something was measured and nothing failed."""
        measured = any(row.forwards for row in self.rows)
        return measured and not self.broken and not any(row.failed for row in self.rows)


def compare(candidate: Sequence[Forward], baseline: Sequence[Forward]) -> Ratio | None:
    """Return the candidate's speed against the baseline's over the rounds that both have."""
    ours, theirs = _log_seconds(candidate), _log_seconds(baseline)
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    estimate = estimate_location([theirs[key] - ours[key] for key in shared])
    value, loads = math.exp(estimate.value), len({load for load, _ in shared})
    if estimate.low is None or estimate.high is None:
        return Ratio(value, None, None, loads, len(shared), None, "unresolved")
    verdict: Verdict = "same"
    if estimate.low > 0:
        verdict = "faster"
    elif estimate.high < 0:
        verdict = "slower"
    low, high = math.exp(estimate.low), math.exp(estimate.high)
    return Ratio(value, low, high, loads, len(shared), None, verdict)


def _log_seconds(forwards: Sequence[Forward]) -> dict[tuple[int, int], float]:
    """Return the mean logarithm of each load and round: both visits count alike."""
    logs: dict[tuple[int, int], list[float]] = {}
    for forward in forwards:
        seconds = max(forward.seconds, TICK_S)
        logs.setdefault((forward.load, forward.round), []).append(math.log(seconds))
    return {key: sum(values) / len(values) for key, values in logs.items()}
