"""Statistics against numbers worked by hand and against published tables."""

from __future__ import annotations

import math

import pytest
from scipy import stats as scipy_stats

from wanrt.results import compare
from wanrt.stats import estimate_location, robust_z, signed_rank_critical, summarize
from wanrt.values import Forward


@pytest.mark.parametrize(
    ("n", "critical"),
    [(5, None), (6, 0), (7, 2), (8, 3), (9, 5), (10, 8), (11, 10), (12, 13), (15, 25), (20, 52),
     (25, 89), (30, 137), (50, 434)],
)  # fmt: skip
def test_critical_values_are_those_of_the_published_table(n: int, critical: int | None) -> None:
    assert signed_rank_critical(n, 0.025) == critical


def test_normal_approximation_joins_the_exact_values() -> None:
    exact, normal = signed_rank_critical(60, 0.025), signed_rank_critical(61, 0.025)
    assert exact is not None
    assert normal is not None
    assert 20 < normal - exact < 35  # the mean grows by 30.5 from n = 60 to 61


def test_hodges_lehmann_by_hand() -> None:
    # Walsh averages of 1, 2, 6: 1, 1.5, 2, 3.5, 4, 6; their median is 2.75.
    estimate = estimate_location([6.0, 1.0, 2.0])
    assert estimate.value == 2.75
    assert estimate.low is None
    assert estimate.high is None


def test_interval_of_six_values_spans_the_sample() -> None:
    estimate = estimate_location([3.0, 1.0, 2.0, 5.0, 4.0, 6.0])
    assert (estimate.low, estimate.value, estimate.high) == (1.0, 3.5, 6.0)


def test_interval_of_eight_values_by_hand() -> None:
    # n = 8: k = 3, so the interval ends at the fourth smallest and largest Walsh averages; of
    # 0, 10, ..., 70 they are 0, 5, 10, 10, 15 ... and, mirrored, 60.
    estimate = estimate_location([10.0 * i for i in range(8)])
    assert (estimate.low, estimate.value, estimate.high) == (10.0, 35.0, 60.0)


def test_interval_agrees_with_the_test_it_inverts() -> None:
    values = [0.31, -0.12, 0.45, 0.80, 0.22, -0.05, 0.51, 0.67, 0.09, 0.38]
    low = estimate_location(values).low
    assert low is not None
    inside = [v - (low + 1e-6) for v in values]
    outside = [v - (low - 1e-6) for v in values]
    assert scipy_stats.wilcoxon(inside, method="exact").pvalue > 0.05
    assert scipy_stats.wilcoxon(outside, method="exact").pvalue <= 0.05


@pytest.mark.parametrize("n", [1, 2, 3, 5])
def test_too_few_values_have_no_interval(n: int) -> None:
    assert estimate_location([1.0] * n).low is None


def test_summary_by_hand() -> None:
    summary = summarize([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert (summary.n, summary.median, summary.mean, summary.min, summary.max) == (8, 4.5, 5, 2, 9)
    assert summary.stddev == pytest.approx(math.sqrt(32 / 7))
    assert summary.p95 is None


def test_summary_of_one_value_has_no_spread() -> None:
    summary = summarize([0.5])
    assert (summary.stddev, summary.cv) == (0.0, 0.0)


def test_p95_from_twenty_values_on() -> None:
    assert summarize([float(i) for i in range(21)]).p95 == pytest.approx(19.0)
    assert summarize([float(i) for i in range(19)]).p95 is None


def test_zero_times_do_not_divide() -> None:
    assert summarize([0.0, 0.0]).cv == 0.0


def test_robust_z_by_hand() -> None:
    # median 3, absolute deviations 2, 1, 0, 1, 97: their median is 1.
    assert robust_z([1.0, 2.0, 3.0, 4.0, 100.0]) == [-2.0, -1.0, 0.0, 1.0, 97.0]


def test_robust_z_without_deviation_is_zero() -> None:
    assert robust_z([1.0, 1.0, 1.0, 9.0]) == [0.0] * 4


def _forwards(seconds: list[float], load: int = 0) -> list[Forward]:
    return [Forward(load, i, s) for i, s in enumerate(seconds)]


def test_ratio_pairs_rounds_so_that_drift_cancels() -> None:
    drift = [1.0 + 0.2 * i for i in range(8)]
    ratio = compare(_forwards([1.25 * d for d in drift]), _forwards(drift))
    assert ratio is not None
    assert ratio.value == pytest.approx(0.8)
    assert ratio.low == pytest.approx(0.8)
    assert (ratio.rounds, ratio.verdict) == (8, "slower")


def test_ratio_pairs_loads_too() -> None:
    base = _forwards([1.0] * 6) + _forwards([2.0] * 6, load=1)
    ratio = compare(_forwards([1.0] * 6, load=1), base)
    assert ratio is not None
    assert ratio.value == pytest.approx(2.0)


def test_both_visits_of_a_round_count_alike() -> None:
    base = [Forward(0, 0, 1.0), Forward(0, 0, 4.0)]  # geometric mean 2
    ratio = compare([Forward(0, 0, 2.0)], base)
    assert ratio is not None
    assert ratio.value == pytest.approx(1.0)


def test_ratio_whose_interval_holds_one_is_no_difference() -> None:
    base = [1.0, 1.1, 0.9, 1.0, 1.05, 0.95, 1.0]
    ratio = compare(_forwards(base[::-1]), _forwards(base))
    assert ratio is not None
    assert ratio.verdict == "same"


def test_ratio_of_three_rounds_is_unresolved() -> None:
    ratio = compare(_forwards([2.0] * 3), _forwards([1.0] * 3))
    assert ratio is not None
    assert (ratio.value, ratio.low, ratio.verdict) == (0.5, None, "unresolved")


def test_nothing_shared_no_ratio() -> None:
    assert compare(_forwards([1.0]), _forwards([1.0], load=1)) is None


def test_zero_seconds_stay_finite() -> None:
    ratio = compare(_forwards([0.0] * 6), _forwards([1.0] * 6))
    assert ratio is not None
    assert math.isfinite(ratio.value)
