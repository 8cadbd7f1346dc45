"""After how many videos per adapter a merged engine pays, by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benches import FULL, MERGED, UNRESOLVED, group, row

from wanrt.report.html.merging import merging_note, merging_rows
from wanrt.results.breakeven import break_evens
from wanrt.results.values import Forward, Probe
from wanrt.results.video import Video

GIB = 2**30
BASE = replace(FULL, forwards=(Forward(0, 0, 2.0),))
ONE = replace(MERGED, probe=Probe(cold_load_s=10.0, disk_bytes=31 * GIB, shared_bytes=19 * GIB))
SWAPPABLE = row("swappable r32", "swappable", 32, (0.8, 0.5, 1 / 1.05))


def test_loading_is_paid_by_what_every_forward_saves() -> None:
    (found,) = break_evens(group(BASE, ONE, SWAPPABLE), Video(50, 2))
    assert found.saved_s == pytest.approx(0.5)
    assert found.saved_interval == pytest.approx((0.1, 2.0))
    assert found.disk_bytes == 12 * GIB
    assert found.videos(10.0) == pytest.approx(0.2)  # of 100 forwards
    assert found.videos_interval(10.0) == pytest.approx((0.05, 1.0))
    assert merging_rows(group(BASE, ONE, SWAPPABLE), None) == [
        ("merged r32 [random weights]", "10.00 s", "12.0 GiB", "500.0 ms",
         "0.2 videos (0.05 to 1)", "1.2 videos (0.3 to 6)")
    ]  # fmt: skip


def test_a_video_is_what_the_bench_was_asked_for() -> None:
    lightning = Video(steps=4)
    (cells,) = merging_rows(group(BASE, ONE, SWAPPABLE), lightning)
    assert cells[4] == "5 videos (1.2 to 25)"  # 10 s / (4 x 0.5 s)
    assert "A video is 4 forwards here: 4 sampler steps. A" in merging_note(lightning)
    asked_for_steps_alone = Video(forwards_per_step=2)
    assert "100 forwards here: 50 sampler steps with guidance" in merging_note(
        asked_for_steps_alone
    )


def test_an_interval_that_reaches_nothing_has_no_upper_end() -> None:
    wide = row("swappable r32", "swappable", 32, (0.8, 0.5, 1.01))
    assert merging_rows(group(BASE, ONE, wide), None)[0][4] == "0.2 videos (0.05 or more)"


def test_it_never_pays_where_nothing_is_saved() -> None:
    equal = replace(SWAPPABLE, ratio=MERGED.ratio)
    (cells,) = merging_rows(group(BASE, ONE, equal), None)
    assert cells[3:] == ("", "never: nothing measurable is saved", "")


def test_only_what_was_measured_is_compared() -> None:
    for rows in (
        (BASE, ONE),
        (BASE, ONE, replace(SWAPPABLE, rank=8)),
        (BASE, ONE, replace(SWAPPABLE, ratio=UNRESOLVED.ratio)),
        (BASE, replace(ONE, probe=Probe()), SWAPPABLE),
        (BASE, replace(ONE, ratio=None), SWAPPABLE),
        (ONE, SWAPPABLE),
    ):
        assert break_evens(group(*rows), Video(50)) == []
