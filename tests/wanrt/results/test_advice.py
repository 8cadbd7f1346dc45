"""Warnings: each by what a bench saw that calls for it, once and with a remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from scripted import rows_of, scripted_bench
from tinyengines import Tiny, make_engine, make_family

from wanrt.report.table import render_advice
from wanrt.results.json import read_results, to_json

ADVICE = {
    "slow-first-run": [0.9, *[0.1, 0.11] * 30],
    "outliers": [0.1, 0.101, 0.1, 0.101, 0.1, 0.9, *[0.1, 0.101] * 30],
    "unstable": [0.1, 0.12],
}


@pytest.mark.parametrize("code", ADVICE)
def test_warnings(tmp_path: Path, code: str) -> None:
    make_engine(tmp_path / "a", Tiny())
    script = {"forward_s": {"tiny-full": ([0.1] * 2) + ADVICE[code]}}
    rows = scripted_bench(tmp_path, script, warmup=0, loads=1).rows
    assert code in [advice.code for row in rows for advice in row.advice]


def test_a_single_load_is_unresolved(tmp_path: Path) -> None:
    row = rows_of(scripted_bench(make_family(tmp_path), loads=1))["separate r4 fp32"]
    assert row.ratio is not None
    assert (row.ratio.low, row.ratio.verdict) == (None, "unresolved")
    assert [advice.code for advice in row.advice] == ["unresolved"]


def test_a_busy_machine_is_told(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    result = scripted_bench(tmp_path, {"machine": {"load_average": 1.5}})
    assert [advice.code for advice in result.advice] == ["busy-machine"]
    script = {"machine": {"load_average": 1.5}, "unsupported": {"tiny-full": "no"}}
    assert scripted_bench(tmp_path, script).advice == ()


BUSY_GPUS: dict[str, tuple[dict[str, Any], str | None]] = {
    "idle": ({"gpu_processes": [], "gpu_utilisation": 0.05}, None),
    "unknown": ({}, None),
    "processes": ({"gpu_processes": [12, 345]}, "other processes are on it: 12, 345"),
    "utilised": ({"gpu_utilisation": 0.37}, "it was at work 37% of the time"),
    "both": (
        {"gpu_processes": [12], "gpu_utilisation": 0.06},
        "other processes are on it: 12; it was at work 6% of the time",
    ),
}


@pytest.mark.parametrize("case", BUSY_GPUS)
def test_a_gpu_that_is_not_idle_is_told(tmp_path: Path, case: str) -> None:
    machine, told = BUSY_GPUS[case]
    make_engine(tmp_path / "a", Tiny())
    advice = scripted_bench(tmp_path, {"machine": machine}).advice
    if told is None:
        assert advice == ()
    else:
        assert [(a.code, a.text) for a in advice] == [
            ("busy-gpu", f"the GPU wasn't idle before the start: {told}")
        ]


def test_a_forward_that_the_gpu_waits_for_is_host_bound(tmp_path: Path) -> None:
    make_family(tmp_path)
    enqueue_s = {"tiny-full": 0.081, "tiny-merged-r4": 0.079, "tiny-swappable": 0.19}
    result = scripted_bench(tmp_path, {"enqueue_s": enqueue_s})
    bound = [row.label for row in result.rows if "host-bound" in {a.code for a in row.advice}]
    assert bound == ["full", "swappable r2", "swappable r4", "full A/A"]
    text = " ".join(render_advice(result).split())
    assert "warning[host-bound]: full, swappable r2, swappable r4, full A/A: enqueueing" in text


def test_what_the_host_took_is_saved(tmp_path: Path) -> None:
    make_family(tmp_path / "engines")
    result = scripted_bench(tmp_path / "engines", {"enqueue_s": {"tiny-full": 0.05}})
    path = tmp_path / "bench.json"
    path.write_text(to_json(result))
    found = read_results(path)
    assert found.rows == result.rows
    assert {f.enqueue_s for f in rows_of(found)["full fp32"].forwards} == {0.05}
    assert {f.enqueue_s for f in rows_of(found)["merged r4 fp32"].forwards} == {None}
