"""A pair of experts in a bench: groups of their own, and what a video takes of both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faketestbed import FakeTestbed, Script
from tinyengines import Tiny, make_engine, read_raw, write_manifest

from wanrt import bench_engines
from wanrt.bench.options import BenchOptions
from wanrt.report.markdown import to_markdown
from wanrt.report.table import render_bench
from wanrt.results.result import BenchResult

EXPERTS = {"boundary": 0.9, "steps": 40, "shift": 5.0}  # 15 and 25 steps


def bench(root: Path, experts: tuple[str, ...], modes: tuple[str, ...]) -> BenchResult:
    """Bench engines of a pair; the high-noise expert's forwards take 2 s, the other's 3 s."""
    forwards: dict[str, list[float]] = {}
    for expert in experts:
        for mode in modes:
            name = f"tiny-{expert}-{mode}"
            rank = None if mode == "full" else 4
            folder = make_engine(root / name, Tiny(mode=mode, rank=rank, name=name))
            manifest = read_raw(folder)
            manifest["expert"] = expert
            manifest["config"] |= {"experts": EXPERTS}
            manifest["compared_by"] |= {"expert": expert}
            write_manifest(folder, manifest)
            forwards[name] = [2.0 if expert == "high" else 3.0]
    script: dict[str, Any] = {"forward_s": forwards}
    options = BenchOptions(loads=1, rounds=1)
    return bench_engines([root], options, testbed=FakeTestbed(Script(**script)))


def test_a_video_takes_both_experts_steps(tmp_path: Path) -> None:
    result = bench(tmp_path, ("high", "low"), ("full", "merged"))
    assert [group.model for group in result.groups] == ["tiny expert high", "tiny expert low"]
    text = " ".join(render_bench(result).split())
    said = "a video: 15 steps of the high-noise expert and 25 of this one (boundary 0.9)"
    assert text.count(said) == 1
    # 15 x 2 s + 25 x 3 s
    assert "One forward a step: full 105.0 s; merged r4 105.0 s" in text
    assert said in to_markdown(result).replace("\\", "")


@pytest.mark.parametrize("expert", ["high", "low"])
def test_half_a_pair_makes_no_video(expert: str, tmp_path: Path) -> None:
    assert "a video" not in render_bench(bench(tmp_path, (expert,), ("full",)))
