"""Distances between outputs: by hand, and where a value isn't a number."""

from __future__ import annotations

import math

import pytest
import torch

from wanexport.verify.distance import measure_distance


def test_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    found = measure_distance("y", torch.tensor([1.0, 2.0, 5.0]), torch.tensor([1.0, 2.0, 4.0]))
    assert (found.largest, found.relative) == (1.0, 0.0)
    assert found.mean == pytest.approx(1 / 3)
    assert found.l2 == pytest.approx(1 / math.sqrt(21))
    assert found.psnr == pytest.approx(20 * math.log10(5) - 10 * math.log10(1 / 3))
    assert (found.within(0.3), found.within(0.2)) == (True, False)
    assert capsys.readouterr() == ("", "")


def test_what_is_equal_is_equal_also_where_both_are_zero() -> None:
    found = measure_distance("y", torch.zeros(4), torch.zeros(4))
    assert (found.l2, found.psnr) == (0.0, math.inf)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nothing_is_near_to_what_is_not_finite(value: float) -> None:
    found = measure_distance("y", torch.tensor([1.0, value]), torch.tensor([1.0, 2.0]))
    assert not found.within(100.0)


def test_rows_of_one_batch_are_compared_with_the_batch() -> None:
    rows = torch.ones(6, 2)
    assert measure_distance("blocks.0", rows, rows.reshape(1, 6, 2)).l2 == 0.0
