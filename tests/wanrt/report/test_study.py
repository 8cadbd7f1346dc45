"""A study's findings: the answer per card, the frontier, when merging pays, failures; its page."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benches import FULL, bench, group, row
from commands import wanrt

from wanrt.manifest.schema import Mode
from wanrt.report.study import answer, failures, find_cards, render_study
from wanrt.results.json import to_json
from wanrt.results.result import CandidateResult
from wanrt.results.study import read_study
from wanrt.results.values import Probe, Verdict
from wanrt.results.video import Video

MIB = 1 << 20


def engine(
    mode: Mode,
    rank: int,
    ratio: float,
    mib: int,
    verdict: Verdict = "slower",
    swap_s: float | None = None,
) -> CandidateResult:
    """Return a row whose interval is 0.001 to each side, of an engine with so much of its own."""
    size = Probe(40.0, disk_bytes=mib * MIB, swap_s=swap_s)
    interval = (ratio, ratio - 0.001, ratio + 0.001)
    return row(f"{mode} r{rank}", mode, rank, interval, verdict, probe=size)


ROWS = (
    FULL,
    engine("merged", 32, 1.0005, 900, "same"),
    engine("separate", 8, 0.99, 40),
    engine("separate", 32, 0.98, 160),
    engine("swappable", 8, 0.97, 40, swap_s=0.004),
    engine("swappable", 32, 0.975, 30, swap_s=0.005),
)


def cell(label: str, **fields: Any) -> dict[str, Any]:
    mode, _, rank = label.partition(" r")
    return {
        "label": label.replace(" ", "-"), "mode": mode, "rank": int(rank) if rank else None,
        "targets": "cross-attention" if rank else None,
        "engine": f"engines/{label.replace(' ', '-')}", "build_s": 60.0, "failed": None,
        "log": None,
    } | fields  # fmt: skip


def write_study(folder: Path, *, measured: bool = True, **fields: Any) -> Path:
    """Write a study of one group, measured on one card, with one cell that couldn't be built."""
    broken = cell("separate r64", engine=None, build_s=None, failed="no room", log="run/logs/b.log")
    group_ = {
        "name": "g", "model": "i2v-14b", "workload": "832x480x81", "dtype": "bf16",
        "backend": "tensorrt", "quantize": "none",
        "cells": [*(cell(one.label) for one in ROWS), broken],
        "results": ["results/g@GPU-1.json"] if measured else [], "failed": None, "log": None,
        "estimates": [
            {"device": "NVIDIA X", "dtype": "bf16", "fits": [True] * 6 + [False],
             "seconds": [2.0, 2.0, 2.01, 2.02, 2.03, 2.04, 2.5]},
        ],
    } | fields  # fmt: skip
    path = folder / "study.json"
    value = {"schema": 1, "study": "mine", "request": {}, "extractions": [], "groups": [group_]}
    path.write_text(json.dumps(value))
    (folder / "results").mkdir()
    result = replace(bench(group(*ROWS)), video=Video(steps=40, forwards_per_step=2))
    (folder / "results/g@GPU-1.json").write_text(to_json(result))
    return path


def test_the_answer_the_frontier_and_the_break_even(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))
    (found,) = find_cards(study, study.groups[0])
    assert answer(found).endswith(
        ": merged costs nothing measurable; separate costs 1.0 % (rank 8) to 2.0 % (rank 32); "
        "swappable costs 3.0 % (rank 8) to 2.5 % (rank 32) [random weights]"
    )
    # merged r32 beats none: it is larger; swappable r32 beats swappable r8 in rank, speed and disk
    assert [point.cell.label for point in found.frontier] == [
        "merged-r32", "separate-r8", "separate-r32", "swappable-r32",
    ]  # fmt: skip
    even = {one.swappable.rank: one for one in found.break_evens}
    assert set(even) == {8, 32}  # the merged engine stands for both
    saved = 2.412 / 0.975 - 2.412  # about: the baseline's median has noise in it
    assert even[32].videos(40.0) == pytest.approx(40 / (80 * saved), rel=0.02)


def test_the_text_says_everything_and_fits_a_terminal(tmp_path: Path) -> None:
    text = render_study(read_study(write_study(tmp_path)))
    assert max(map(len, text.splitlines())) <= 79
    for words in (
        "* swappable r32", "5.000 ms", "merging pays after", "NVIDIA X, bf16: estimate:",
        "0.8000", "too large", "failed: g separate-r64: no room (run/logs/b.log)",
    ):  # fmt: skip
        assert words in text
    assert failures(read_study(tmp_path / "study.json")) == [
        "g separate-r64: no room (run/logs/b.log)"
    ]


def test_what_was_not_measured_is_estimated_and_says_so(tmp_path: Path) -> None:
    text = render_study(read_study(write_study(tmp_path, measured=False, failed="no GPU")))
    assert "nothing was measured" in text
    assert "estimate: the least time" in text
    assert "failed: bench of g: no GPU" in text


def test_the_page_is_one_file_and_is_replaced(tmp_path: Path) -> None:
    record = write_study(tmp_path)
    code, out, err = wanrt("report", record)
    assert (code, err.splitlines()[-1]) == (0, f"saved {tmp_path / 'study.html'}")
    assert "mine · i2v-14b 832x480x81 · bf16 · tensorrt" in out
    page = (tmp_path / "study.html").read_text()
    assert page.count("<svg") == 2
    assert "src=" not in page
    assert "no room" in page
    assert "When merging pays" in page
    assert wanrt("report", record).code == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cells": []}, "groups.0.cells: Tuple should have at least 1 item"),
        ({"results": ["results/none.json"]}, "none.json can't be read"),
    ],
)
def test_a_record_that_is_broken_is_named(
    tmp_path: Path, change: dict[str, Any], words: str
) -> None:
    code, _, err = wanrt("report", write_study(tmp_path, **change))
    assert code == 1
    assert words in err
