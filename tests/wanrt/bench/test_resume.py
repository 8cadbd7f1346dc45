"""Benches that go on where an earlier one ended, or refuse to."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faketestbed import FakeTestbed, Script
from scripted import TIMES, scripted_bench
from tinyengines import Tiny, make_engine, make_family

from wanrt import bench_engines
from wanrt.bench.options import BenchOptions
from wanrt.errors import ResultsError
from wanrt.results.result import BenchResult


class TestResume:
    def test_goes_on_after_the_last_whole_load(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        whole = scripted_bench(tmp_path)
        # five loaded and four rounds of six visits of two forwards, there and back
        part = scripted_bench(tmp_path, {"interrupt_at": 2 * (5 + 4 * 24) + 40})
        assert part.interrupted
        testbed = FakeTestbed(Script(forward_s=TIMES))
        options = BenchOptions(loads=3, rounds=4)
        result = bench_engines([tmp_path], options, testbed=testbed, earlier=part)
        assert not result.interrupted
        assert next(testbed.forwards) == 5 + 4 * 24 + 1  # one load was left
        assert [row.forwards for row in result.rows] == [row.forwards for row in whole.rows]

    def test_what_is_whole_is_only_shown(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        whole = scripted_bench(tmp_path)
        testbed = FakeTestbed(Script())
        options = BenchOptions(loads=3, rounds=4)
        again = bench_engines([tmp_path], options, testbed=testbed, earlier=whole)
        assert next(testbed.forwards) == 1
        assert again.rows == whole.rows
        assert again.timed == whole.timed

    def test_another_aim_is_taken_up(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        script: dict[str, Any] = {
            "forward_s": TIMES | {"tiny-separate-r4": [0.12, 0.13, 0.125, 0.11, 0.14]}
        }
        short = scripted_bench(tmp_path, script, loads=None, time_budget_s=1.0)
        assert short.groups[0].loads == 3
        testbed = FakeTestbed(Script(**script))
        options = BenchOptions(rounds=4, half_width=1e-9, time_budget_s=100.0)
        longer = bench_engines([tmp_path], options, testbed=testbed, earlier=short)
        assert longer.groups[0].loads > 3
        assert longer.rows[0].forwards[:24] == short.rows[0].forwards

    def test_a_refusal_changes_nothing(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        whole = scripted_bench(tmp_path)
        saved: list[BenchResult] = []
        with pytest.raises(ResultsError, match="in 4 sets, not 1"):
            bench_engines(
                [tmp_path],
                BenchOptions(loads=4, rounds=4),
                testbed=FakeTestbed(Script(available_bytes=6000)),
                earlier=whole,
                on_round=saved.append,
            )
        assert [one.rows for one in saved] == [whole.rows]

    def test_what_failed_before_keeps_the_others_from_nothing(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        part = scripted_bench(tmp_path, {"failing": {"tiny-merged-r4": "damaged"}})
        testbed = FakeTestbed(Script(forward_s=TIMES))
        options = BenchOptions(loads=3, rounds=4)
        again = bench_engines([tmp_path], options, testbed=testbed, earlier=part)
        assert next(testbed.forwards) == 1
        assert len(again.rows[0].forwards) == 24

    def test_a_model_that_is_gone_is_refused(self, tmp_path: Path) -> None:
        make_engine(tmp_path / "a", Tiny(model="a"))
        make_engine(tmp_path / "b", Tiny(model="b"))
        whole = scripted_bench(tmp_path)
        with pytest.raises(ResultsError, match="the earlier bench also had b 64x32x1"):
            options = BenchOptions(loads=3, rounds=4)
            bench_engines([tmp_path / "a"], options, testbed=FakeTestbed(Script()), earlier=whole)

    def test_in_pairs(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        script = {"available_bytes": 6000}
        part = scripted_bench(tmp_path, script | {"interrupt_at": 150})
        assert part.groups[0].sets == 4
        testbed = FakeTestbed(Script(forward_s=TIMES, available_bytes=6000))
        options = BenchOptions(loads=3, rounds=4)
        result = bench_engines([tmp_path], options, testbed=testbed, earlier=part)
        whole = scripted_bench(tmp_path, script)
        assert [row.forwards for row in result.rows] == [row.forwards for row in whole.rows]
        with pytest.raises(ResultsError, match="in 1 sets, not 4"):
            bench_engines([tmp_path], options, testbed=FakeTestbed(Script()), earlier=part)

    def test_refuses_another_bench(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        part = scripted_bench(tmp_path)
        options = BenchOptions(loads=3, rounds=4)
        with pytest.raises(ResultsError, match="another machine"):
            other = FakeTestbed(Script(machine={"processor": "Other"}))
            bench_engines([tmp_path], options, testbed=other, earlier=part)
        card = replace(part.machine, gpu_uuid="GPU-1", gpu_power_limit_w=700.0)
        first = replace(part, machine=card)
        changes: tuple[dict[str, Any], ...] = ({"gpu_uuid": "GPU-2"}, {"gpu_power_limit_w": 350.0})
        for change in changes:
            (fact,) = change
            with pytest.raises(ResultsError, match=f"another machine .*: {fact} was"):
                other = FakeTestbed(Script(machine=change))
                bench_engines([tmp_path], options, testbed=other, earlier=first)
        with pytest.raises(ResultsError, match="another --warmup"):
            wider = BenchOptions(loads=3, rounds=4, warmup=3)
            bench_engines([tmp_path], wider, testbed=FakeTestbed(Script()), earlier=part)
        make_engine(tmp_path / "new", Tiny(name="new", mode="separate", rank=2))
        with pytest.raises(ResultsError, match="new isn't what the earlier bench measured"):
            bench_engines([tmp_path], options, testbed=FakeTestbed(Script()), earlier=part)
        shutil.rmtree(tmp_path / "new")
        shutil.rmtree(tmp_path / "tiny-merged-r4")
        with pytest.raises(ResultsError, match="had merged r4 fp32, which is gone"):
            bench_engines([tmp_path], options, testbed=FakeTestbed(Script()), earlier=part)
