"""What a step and a video take: by hand, of a pair of experts, and when a bench is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from faketestbed import FakeTestbed, Script
from scripted import TIMES, rows_of, scripted_bench
from tinyengines import Tiny, make_engine, make_family, read_raw, write_manifest

from wanrt import bench_engines
from wanrt.bench.options import BenchOptions
from wanrt.report.markdown import to_markdown
from wanrt.report.table import render_bench
from wanrt.results.json import read_results, to_json
from wanrt.results.result import BenchResult
from wanrt.results.video import Video, VideoUnits

about: Any = pytest.approx
EXPERTS = {"boundary": 0.9, "steps": 40, "shift": 5.0}  # 15 and 25 steps


def bench(
    root: Path, experts: tuple[str, ...], modes: tuple[str, ...], video: Video | None = None
) -> BenchResult:
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
    script: dict[str, Any] = {"forward_s": forwards, "watts": 100.0}
    options = BenchOptions(loads=1, rounds=1)
    return bench_engines([root], options, video=video, testbed=FakeTestbed(Script(**script)))


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


@pytest.mark.parametrize("expert", ["high", "low"])
def test_half_a_pair_has_steps_and_says_what_a_video_wants(expert: str, tmp_path: Path) -> None:
    result = bench(tmp_path, (expert,), ("full",), Video(20, 2))
    units = result.rows[0].units
    assert units == VideoUnits({"high": 4.0, "low": 6.0}[expert])
    other = {"high": "low", "low": "high"}[expert]
    assert f"both experts: bench the {other}-noise one, too" in " ".join(
        render_bench(result).split()
    )


def test_a_pair_s_units_worked_by_hand(tmp_path: Path) -> None:
    # noise 1 - i / 20; 5 s / (1 + 4 s) >= 0.9 as long as s >= 0.643: i = 0 to 7, so 8 steps and 12
    result = bench(tmp_path, ("high", "low"), ("full",), Video(20, 2))
    high, low = ([row.units for row in group.candidates] for group in result.groups)
    assert high[0] == VideoUnits(4.0)
    # 2 forwards x (8 x 2 s + 12 x 3 s), at 100 W
    assert low[0] == VideoUnits(6.0, about(104.0), about(10_400.0))
    text = " ".join(render_bench(result).split())
    assert (
        "8 steps of the high-noise expert and 12 of this one (boundary 0.9), two forwards" in text
    )
    assert "two forwards each: full 104.0 s" in text
    assert "what it takes is said of the low-noise one" in text


def test_units_worked_by_hand(tmp_path: Path) -> None:
    make_family(tmp_path)
    testbed = FakeTestbed(Script(forward_s=TIMES, watts=300.0))
    options = BenchOptions(loads=1, rounds=2, warmup=1)
    result = bench_engines([tmp_path], options, video=Video(20, 2), testbed=testbed)
    rows = rows_of(result)
    # 2 forwards x 0.125 s; 20 of those; at 300 W
    separate = rows["separate r4 fp32"]
    assert separate.units == VideoUnits(0.25, about(5.0), about(1500.0))
    assert separate.energy is not None
    assert separate.energy.forwards == 2 * 2 * 2  # rounds, visits, warm-up and timed
    assert separate.energy.joules == about(8 * 0.125 * 300)
    assert separate.error == 3e-7
    assert rows["swappable r4 fp32"].units == VideoUnits(0.4, about(8), about(2400))


def test_a_video_is_one_of_the_batch(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "tiny-full", Tiny())
    manifest = read_raw(folder)
    manifest["workloads"]["64x32x1"]["batch"] = 4
    write_manifest(folder, manifest)
    testbed = FakeTestbed(Script(watts=10.0))
    options = BenchOptions(loads=1, rounds=1)
    result = bench_engines([tmp_path], options, video=Video(10), testbed=testbed)
    # a step of all four takes 0.1 s; a video a quarter of 10 steps, at 10 W
    expected = VideoUnits(0.1, about(0.25), about(2.5))
    assert result.rows[0].units == expected


def test_steps_alone_without_a_video(tmp_path: Path) -> None:
    make_engine(tmp_path / "tiny-full", Tiny())
    result = bench_engines(
        [tmp_path],
        BenchOptions(loads=1, rounds=1),
        video=Video(None, 2),
        testbed=FakeTestbed(Script()),
    )
    assert result.rows[0].units == VideoUnits(0.2)
    assert "a step is 2 forwards" in render_bench(result)


def test_resuming_derives_units_again_and_keeps_energy(tmp_path: Path) -> None:
    root = make_family(tmp_path / "engines")
    script = Script(forward_s=TIMES, watts=300.0)
    options = BenchOptions(loads=3, rounds=4)
    first = bench_engines([root], options, video=Video(20, 2), testbed=FakeTestbed(script))
    saved = tmp_path / "bench.json"
    saved.write_text(to_json(first), encoding="utf-8")
    earlier = read_results(saved)
    assert earlier == first
    testbed = FakeTestbed(script)
    again = bench_engines([root], options, video=Video(4), testbed=testbed, earlier=earlier)
    assert next(testbed.forwards) == 1  # nothing ran
    full = rows_of(again)["full fp32"]
    assert full.forwards == rows_of(first)["full fp32"].forwards
    assert full.units == VideoUnits(0.1, about(0.4), about(120.0))
    without = bench_engines([root], options, testbed=FakeTestbed(script), earlier=earlier)
    assert rows_of(without)["full fp32"].units is None


def test_nothing_is_asked_and_nothing_added(tmp_path: Path) -> None:
    make_family(tmp_path)
    result = scripted_bench(tmp_path)
    assert {row.units for row in result.rows} == {None}
    assert "a video" not in render_bench(result)
