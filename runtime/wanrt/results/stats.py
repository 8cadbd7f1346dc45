"""Statistics of timings: pure functions on plain numbers.

Loading the same engine again moves its speed by itself, so a load is the unit of every interval:
what is repeated within a load only makes that load's figure better. Kalibera and Jones, "Rigorous
benchmarking in reasonable time", ISMM 2013. `docs/measuring.md` says how each step was chosen, and
what false claims it and the usual ways make on simulated machines.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, median, stdev

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Estimate", "Summary", "average", "compare_levels", "correct_holm", "level_load",
    "predict_next", "summarize",
]  # fmt: skip

CONFIDENCE = 0.95
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean log ratio over loads; of one load there is neither interval nor p-value."""

    value: float
    low: float | None = None
    high: float | None = None
    p: float | None = None


@dataclass(frozen=True)
class Summary:
    """A sample of seconds in brief."""

    n: int
    median: float
    mean: float
    stddev: float
    min: float
    max: float
    p95: float | None
    """Only from 20 values on."""

    @property
    def cv(self) -> float:
        """The coefficient of variation."""
        return self.stddev / self.mean if self.mean else 0.0


def level_load(passes: Floats) -> Floats:
    """Return each candidate's level in one load: log seconds [passes, candidates] -> [candidates].

    A pass visits every candidate once. What a pass has in common (the machine drifts) is taken out,
    and a candidate's level is the median of what remains: Tukey's median polish (Exploratory Data
    Analysis, 1977, chapter 11), one sweep. Levels mean something only beside each other.
    """
    rest = passes - np.median(passes, axis=0)
    levels: Floats = np.median(passes - np.median(rest, axis=1)[:, None], axis=0)
    return levels


def spread_levels(levels: Floats) -> float:
    """Return the standard deviation of a log ratio from load to load, pooled over candidates.

    `levels` [loads, candidates] is a block design, a load being a block: what loads and candidates
    have in common is taken out, and the residual's variance counts twice in a ratio.
    """
    loads, candidates = levels.shape
    rest = levels - levels.mean(axis=0) - levels.mean(axis=1)[:, None] + levels.mean()
    return math.sqrt(2 * float(np.square(rest).sum()) / ((loads - 1) * (candidates - 1)))


def compare_levels(levels: Floats, candidate: int, baseline: int) -> Estimate:
    """Return the log ratio of a candidate's speed to the baseline's: above 0 is faster.

    The interval is Student's. Its standard error is the block design's, which a few loads of
    several candidates know well. Where the candidate's own is larger, that is taken, with its own
    few degrees of freedom: one that varies more than the others can't borrow their steadiness.

    Args:
        levels: [loads, candidates], from `level_load`.
        candidate: its column.
        baseline: the other's.
    """
    ratios = levels[:, baseline] - levels[:, candidate]
    loads = len(ratios)
    value = float(ratios.mean())
    if loads < 2:
        return Estimate(value)
    spread, independent = _spread_ratio(levels, candidate, baseline)
    return _student(value, spread / math.sqrt(loads), (loads - 1) * independent)


def average(values: Sequence[float]) -> Estimate:
    """Return a sample's mean with Student's interval; its p-value is that of a true mean of 0.

    One value has neither.
    """
    value = fmean(values)
    if len(values) < 2:
        return Estimate(value)
    return _student(value, stdev(values) / math.sqrt(len(values)), len(values) - 1)


def predict_next(values: Sequence[float]) -> tuple[float, float]:
    """Return where the next value of a normal sample of two or more will be, with 95 %.

    Whitmore, "Prediction limits for a univariate normal observation", The American Statistician
    40, 1986.
    """
    reach = _quantile(len(values) - 1) * stdev(values) * math.sqrt(1 + 1 / len(values))
    return fmean(values) - reach, fmean(values) + reach


def compare_samples(first: Sequence[float], second: Sequence[float]) -> Estimate:
    """Return how much larger the first sample's mean is, with Welch's interval (Biometrika, 1947).

    A sample of one value has no interval.
    """
    value = fmean(first) - fmean(second)
    if min(len(first), len(second)) < 2:
        return Estimate(value)
    a, b = (stdev(sample) ** 2 / len(sample) for sample in (first, second))
    if not a + b:
        return Estimate(value, value, value)
    freedom = (a + b) ** 2 / (a**2 / (len(first) - 1) + b**2 / (len(second) - 1))
    reach = _quantile(freedom) * math.sqrt(a + b)
    return Estimate(value, value - reach, value + reach)


def loads_for(levels: Floats, candidate: int, baseline: int, half_width: float, most: int) -> int:
    """Return how many loads bring a ratio's interval to `half_width`, at most `most`.

    `levels` is a pilot's, and the number is fixed from it once: stopping when the interval happens
    to be narrow would make it too narrow.
    """
    spread, independent = _spread_ratio(levels, candidate, baseline)
    for loads in range(2, most):
        if _quantile((loads - 1) * independent) * spread / math.sqrt(loads) <= half_width:
            return loads
    return most


def _spread_ratio(levels: Floats, candidate: int, baseline: int) -> tuple[float, int]:
    """Return a log ratio's standard deviation over loads, and its degrees of freedom per load."""
    own = float((levels[:, baseline] - levels[:, candidate]).std(ddof=1))
    pooled = spread_levels(levels)
    return (own, 1) if own > pooled * (1 + 1e-9) else (pooled, levels.shape[1] - 1)


def _student(value: float, error: float, freedom: int) -> Estimate:
    """Return Student's interval and p-value of a value with so large a standard error."""
    from scipy.special import stdtr

    reach = _quantile(freedom) * error
    p = float(2 * stdtr(freedom, -abs(value) / error)) if error else float(value == 0)
    return Estimate(value, value - reach, value + reach, p)


def _quantile(freedom: float) -> float:
    """Return how many standard errors of so many degrees of freedom an interval reaches."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


def correct_holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scandinavian J. of Statistics 6, 1979)."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def summarize(seconds: Sequence[float]) -> Summary:
    """Return a non-empty sample in brief."""
    enough = len(seconds) >= 20
    return Summary(
        n=len(seconds),
        median=median(seconds),
        mean=fmean(seconds),
        stddev=stdev(seconds) if len(seconds) > 1 else 0.0,
        min=min(seconds),
        max=max(seconds),
        p95=float(np.quantile(seconds, 0.95)) if enough else None,
    )


def robust_z(values: Sequence[float]) -> list[float]:
    """Return how many median absolute deviations each value is above the median.

    All zeros if the deviation is zero: half of the values are equal and nothing can be said.
    """
    middle = median(values)
    mad = median(abs(value - middle) for value in values)
    return [(value - middle) / mad if mad else 0.0 for value in values]
