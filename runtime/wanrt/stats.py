"""Robust statistics of timings: pure functions on plain numbers.

Ratios are estimated by Hodges and Lehmann's pseudo-median of the rounds' log ratios, with the
interval that inverts Wilcoxon's signed-rank test: no normality is assumed, one wild round moves
little, and the coverage is exact for independent symmetric rounds. Hollander, Wolfe, Chicken,
Nonparametric Statistical Methods (3rd ed.), sections 3.2 and 3.3.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean, median, stdev

import numpy as np
from numpy.typing import NDArray

__all__ = ["Estimate", "Summary", "estimate_location", "robust_z", "summarize"]

EXACT_UP_TO = 60
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A location and its interval; there is none if the sample is too small for the confidence."""

    value: float
    low: float | None
    high: float | None


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


def estimate_location(values: Sequence[float], confidence: float = CONFIDENCE) -> Estimate:
    """Return the Hodges-Lehmann estimate of `values` and its signed-rank interval."""
    averages = _walsh_averages(values)
    value = float(np.median(averages))
    k = signed_rank_critical(len(values), (1 - confidence) / 2)
    if k is None:
        return Estimate(value, None, None)
    return Estimate(value, float(averages[k]), float(averages[-1 - k]))


def signed_rank_critical(n: int, tail: float) -> int | None:
    """Return the largest k with P(W <= k) <= tail under the null, or None if there is none.

    W is the signed-rank statistic: the sum of a random subset of the ranks 1 to n.
    """
    if n <= EXACT_UP_TO:
        counts = [1]  # subsets by sum, ranks added one by one
        for rank in range(1, n + 1):
            padded = counts + [0] * rank
            counts = [c + (padded[s - rank] if s >= rank else 0) for s, c in enumerate(padded)]
        total, limit = 0, tail * 2**n
        for k, count in enumerate(counts):
            total += count
            if total > limit:
                return k - 1 if k else None
        return len(counts) - 1
    mean = n * (n + 1) / 4
    deviation = math.sqrt(n * (n + 1) * (2 * n + 1) / 24)
    return math.floor(mean + NormalDist().inv_cdf(tail) * deviation - 0.5)


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
    """Return how many median absolute deviations each value lies above the median.

    All zeros if the deviation is zero: half of the values are equal and nothing can be said.
    """
    middle = median(values)
    mad = median(abs(value - middle) for value in values)
    return [(value - middle) / mad if mad else 0.0 for value in values]


def _walsh_averages(values: Sequence[float]) -> NDArray[np.float64]:
    array = np.asarray(values, np.float64)
    rows, columns = np.triu_indices(len(array))
    return np.sort((array[rows] + array[columns]) / 2)
