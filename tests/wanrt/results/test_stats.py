"""Statistics against numbers worked by hand and against scipy's."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats as scipy_stats

from wanrt.results.stats import (
    compare_levels,
    compare_samples,
    correct_holm,
    level_load,
    loads_for,
    robust_z,
    spread_levels,
    summarize,
)


def test_levels_by_hand() -> None:
    # medians over passes 2, 5; what remains is (-1, 0, 8), (-1, 0, 1), whose medians over
    # candidates are -1, 0, 4.5; without them (2, 2, 5.5) and (5, 5, 1.5)
    passes = np.array([[1.0, 4.0], [2.0, 5.0], [10.0, 6.0]])
    assert level_load(passes).tolist() == [2.0, 5.0]


def test_a_pass_that_is_slow_for_all_moves_nothing() -> None:
    rng = np.random.default_rng(0)
    passes = rng.normal(0, 0.01, (9, 5))
    slow = passes + np.where(np.arange(9) < 4, 0.3, 0.0)[:, None]
    difference = level_load(slow) - level_load(passes)
    assert np.ptp(difference) < 0.01


def test_wild_forwards_move_little() -> None:
    rng = np.random.default_rng(0)
    passes = rng.normal(0, 0.001, (6, 4))
    wild = passes.copy()
    wild[2, 1] += 0.4
    wild[4, 0] += 0.2
    assert np.abs(level_load(wild) - level_load(passes)).max() < 0.002


def test_levels_shift_with_their_candidates() -> None:
    passes = np.random.default_rng(1).normal(0, 0.01, (6, 4))
    shift = np.array([0.0, 0.5, -0.2, 1.0])
    assert level_load(passes + shift) == pytest.approx(level_load(passes) + shift)


def test_two_engines_are_a_paired_t_test() -> None:
    levels = np.array([[0.0, 0.1], [0.2, 0.33], [0.1, 0.19], [0.4, 0.52]])
    estimate = compare_levels(levels, candidate=1, baseline=0)
    paired = scipy_stats.ttest_rel(levels[:, 0], levels[:, 1])
    interval = paired.confidence_interval(0.95)
    assert estimate.value == pytest.approx(-0.11)
    assert estimate.p == pytest.approx(paired.pvalue)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))


def test_a_block_design_by_hand() -> None:
    # means of candidates 0, 1, 2; of loads 0, 2; what remains is +-1 in the first two columns
    levels = np.array([[0.0, -1.0, 1.0], [0.0, 3.0, 3.0]])
    rest = levels - levels.mean(0) - levels.mean(1)[:, None] + levels.mean()
    variance = (rest**2).sum() / ((2 - 1) * (3 - 1))
    assert spread_levels(levels) == pytest.approx(math.sqrt(2 * variance))
    estimate = compare_levels(levels, candidate=1, baseline=0)
    assert estimate.value == pytest.approx(-1.0)
    own = float(np.std([1.0, -3.0], ddof=1))  # larger than the pooled: it counts, with 1 freedom
    assert own > math.sqrt(2 * variance)
    error = own / math.sqrt(2)
    t = scipy_stats.t(1)
    assert estimate.high == pytest.approx(-1.0 + t.isf(0.025) * error)
    assert estimate.p == pytest.approx(2 * t.sf(1.0 / error))


def test_many_steady_candidates_narrow_each_other() -> None:
    def width(levels: np.ndarray) -> float:
        estimate = compare_levels(levels, 1, 0)
        assert estimate.high is not None
        return estimate.high - estimate.value

    drawn = [np.random.default_rng(seed).normal(0, 0.003, (3, 10)) for seed in range(50)]
    few = np.median([width(levels[:, :2]) for levels in drawn])
    many = np.median([width(levels) for levels in drawn])
    assert many < 0.75 * few


def test_an_unsteady_candidate_does_not_borrow_their_steadiness() -> None:
    levels = np.random.default_rng(3).normal(0, 0.001, (4, 8))
    levels[:, 5] = [0.0, 0.1, -0.1, 0.05]
    estimate, other = compare_levels(levels, 5, 0), compare_levels(levels, 4, 0)
    assert estimate.high is not None
    assert other.high is not None
    assert estimate.high - estimate.value > 0.08
    assert other.high - other.value < estimate.high - estimate.value


def test_one_load_has_no_interval() -> None:
    estimate = compare_levels(np.array([[0.0, math.log(2)]]), 1, 0)
    assert estimate.value == pytest.approx(-math.log(2))
    assert (estimate.low, estimate.high, estimate.p) == (None, None, None)


@pytest.mark.parametrize(("shift", "p"), [(0.0, 1.0), (0.5, 0.0)])
def test_loads_that_never_differ_leave_no_doubt(shift: float, p: float) -> None:
    estimate = compare_levels(np.array([[0.0, shift]] * 3), 1, 0)
    assert estimate.value == -shift
    assert (estimate.low, estimate.high, estimate.p) == (-shift, -shift, p)


def test_two_samples_are_welch_s_t_test() -> None:
    first, second = [1.0, 1.2, 1.1, 1.4], [0.9, 1.0, 0.7]
    interval = scipy_stats.ttest_ind(first, second, equal_var=False).confidence_interval(0.95)
    estimate = compare_samples(first, second)
    assert estimate.value == pytest.approx(1.175 - 2.6 / 3)
    assert (estimate.low, estimate.high) == pytest.approx((interval.low, interval.high))
    assert compare_samples([1.0, 1.0], [0.5, 0.5]).low == 0.5
    assert compare_samples([1.0], [0.5, 0.7]).low is None


def test_loads_for_a_half_width_by_hand() -> None:
    levels = np.array([[0.0, 0.01], [0.0, -0.01]])
    spread = spread_levels(levels)
    needed = loads_for(levels, 1, 0, 0.005, 1000)
    reach = [scipy_stats.t(n - 1).isf(0.025) * spread / math.sqrt(n) for n in (needed - 1, needed)]
    assert reach[0] > 0.005 >= reach[1]
    assert loads_for(levels, 1, 0, 1e-9, 50) == 50


def test_holm_by_hand() -> None:
    # 0.01 x 4, 0.02 x 3, 0.04 x 2, and 0.03 x 1 may not fall below the one before
    assert correct_holm([0.01, 0.3, 0.02, 0.04]) == pytest.approx([0.04, 0.3, 0.06, 0.08])
    assert correct_holm([0.03, 0.04]) == pytest.approx([0.06, 0.06])
    assert correct_holm([0.9, 0.8]) == [1.0, 1.0]
    assert correct_holm([]) == []


def test_summary_by_hand() -> None:
    summary = summarize([2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0])
    assert (summary.n, summary.median, summary.mean) == (8, 4.5, 5.0)
    assert summary.stddev == pytest.approx(math.sqrt(32 / 7))
    assert (summary.min, summary.max, summary.p95) == (2.0, 9.0, None)


def test_summary_of_one_value() -> None:
    summary = summarize([0.5])
    assert (summary.median, summary.stddev, summary.cv) == (0.5, 0.0, 0.0)


def test_p95_needs_twenty_values() -> None:
    assert summarize([float(i) for i in range(21)]).p95 == pytest.approx(19.0)
    assert summarize([float(i) for i in range(19)]).p95 is None


def test_cv_of_zeros_is_zero() -> None:
    assert summarize([0.0, 0.0]).cv == 0.0


def test_robust_z_by_hand() -> None:
    # the median is 3, the absolute deviations 2, 1, 0, 1, 97 and theirs 1
    assert robust_z([1.0, 2.0, 3.0, 4.0, 100.0]) == [-2.0, -1.0, 0.0, 1.0, 97.0]


def test_robust_z_without_deviation_is_zero() -> None:
    assert robust_z([1.0, 1.0, 1.0, 9.0]) == [0.0] * 4
