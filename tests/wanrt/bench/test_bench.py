"""Benches on a scripted clock: what is measured, in which order, and what becomes of failures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from faketestbed import FakeEngine, FakeTestbed, Script
from scripted import TIMES, ratio_of, rows_of, scripted_bench, shown
from tinyengines import Tiny, make_engine, make_family

from wanrt import bench_engines
from wanrt.bench.candidates import Candidate
from wanrt.bench.options import BenchOptions
from wanrt.errors import EngineError
from wanrt.machine.cores import usable_cores
from wanrt.results.values import Probe


def test_ratios_to_the_full_engine(tmp_path: Path) -> None:
    rows = rows_of(scripted_bench(make_family(tmp_path)))
    assert list(rows) == [
        "full fp32", "merged r4 fp32", "separate r4 fp32", "swappable r2 fp32", "swappable r4 fp32"
    ]  # fmt: skip
    assert ratio_of(rows["separate r4 fp32"]) == pytest.approx(0.8)
    assert ratio_of(rows["swappable r2 fp32"]) == pytest.approx(0.625)
    assert ratio_of(rows["swappable r4 fp32"]) == pytest.approx(0.5)
    verdicts = [row.ratio.verdict for row in rows.values() if row.ratio]
    assert verdicts == ["baseline", "same", "slower", "slower", "slower"]
    assert rows["separate r4 fp32"].tokens_per_s == pytest.approx(6 / 0.125)


def test_each_round_visits_there_and_back(tmp_path: Path) -> None:
    order: list[str] = []

    class Testbed(FakeTestbed):
        def spend(self, name: str, adapter: str | None) -> float:
            order.append(f"{name} {adapter}")
            return super().spend(name, adapter)

    options = BenchOptions(loads=2, rounds=2, warmup=2)
    bench_engines([make_family(tmp_path)], options, testbed=Testbed(Script()))
    assert len(order) == 2 * (5 + 2 * 36)
    rounds = []
    for load in (order[:77], order[77:]):
        assert sorted(load[:5]).count("tiny-full None") == 2  # the second is the control
        assert len(set(load[:5])) == 4
        rounds += [load[5:41], load[41:]]
    for one in rounds:
        assert one == one[::-1]
        assert all(one[i] == one[i + 1] == one[i + 2] for i in range(0, 36, 3))
    assert len({tuple(one) for one in rounds}) == 4
    assert order[:5] != order[77:82]


def test_a_drifting_machine_hurts_all_alike(tmp_path: Path) -> None:
    class Testbed(FakeTestbed):
        def spend(self, name: str, adapter: str | None) -> float:
            return super().spend(name, adapter) * (1 + self.clock / 20)

    testbed = Testbed(Script(forward_s={"tiny-full": [0.1], "tiny-separate-r4": [0.125]}))
    make_engine(tmp_path / "a", Tiny())
    make_engine(tmp_path / "b", Tiny(mode="separate", rank=4, name="tiny-separate-r4"))
    rows = rows_of(bench_engines([tmp_path], BenchOptions(loads=3, rounds=4), testbed=testbed))
    ratio = rows["separate r4 fp32"].ratio
    assert ratio is not None
    assert ratio.value == pytest.approx(0.8, rel=0.01)
    summary = rows["full fp32"].summary
    assert summary is not None
    assert summary.max > 1.4 * summary.min


def test_loads_follow_from_the_time_budget(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    # scattered so that the half-width is never reached: time decides
    script = {"forward_s": {"tiny-full": [0.09, 0.11, 0.1, 0.1, 0.12, 0.08, 0.1]}}

    def loads(budget_s: float) -> int:
        options = {"loads": None, "rounds": 3, "half_width": 1e-9, "time_budget_s": budget_s}
        (group,) = scripted_bench(tmp_path, script, **options).groups
        assert {f.load for f in group.candidates[0].forwards} == set(range(group.loads))
        return group.loads

    # a load is a forward of both and three rounds of eight: 2.6 s
    assert [loads(s) for s in (0, 7.9, 10.5, 26.2, 1e9)] == [3, 3, 4, 10, 100]


def test_loads_follow_from_the_half_width(tmp_path: Path) -> None:
    make_family(tmp_path)
    (group,) = scripted_bench(tmp_path, loads=None, half_width=0.01, time_budget_s=1e9).groups
    assert group.loads == 3  # nothing scatters


@pytest.mark.parametrize(("load_s", "rounds"), [(0.0, 3), (2.0, 6), (1e6, 20)])
def test_rounds_take_about_as_long_as_loading(tmp_path: Path, load_s: float, rounds: int) -> None:
    make_engine(tmp_path / "a", Tiny())
    # two loads of load_s and a forward each, against rounds of 0.8 s
    result = scripted_bench(tmp_path, {"load_s": load_s}, rounds=None)
    assert result.groups[0].rounds == rounds


def test_the_first_forward_of_a_visit_is_discarded(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    # the two loaded first, then visits of two forwards
    cold = {"forward_s": {"tiny-full": [9.0, 9.0, *([5.0, 0.1] * 16)]}}
    row = rows_of(scripted_bench(tmp_path, cold))["full fp32"]
    assert {forward.seconds for forward in row.forwards} == {0.1}
    assert len(row.forwards) == 3 * 4 * 2


def test_unsupported_engines_are_skipped(tmp_path: Path) -> None:
    script = {"unsupported": {"tiny-separate-r4": "built for another machine"}}
    result = scripted_bench(make_family(tmp_path), script)
    assert rows_of(result)["separate r4 fp32"].skipped == "built for another machine"
    assert result.ok


def test_failing_engines_are_rows_and_the_others_go_on(tmp_path: Path) -> None:
    result = scripted_bench(
        make_family(tmp_path), {"failing": {"tiny-separate-r4": "out of memory"}}
    )
    rows = rows_of(result)
    assert rows["separate r4 fp32"].failed == "out of memory"
    assert rows["merged r4 fp32"].ratio is not None
    assert not result.ok


def test_unreadable_engines_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    make_family(tmp_path)
    (tmp_path / "tiny-merged-r4" / "engine.json").write_text("{")
    result = scripted_bench(tmp_path)
    assert list(result.broken) == [str(tmp_path / "tiny-merged-r4")]
    assert len(shown(result)) == 4
    assert not result.ok


def test_the_fewest_loads_may_exceed_the_budget(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    notes = scripted_bench(tmp_path, loads=None, time_budget_s=0.5).groups[0].notes
    # three loads of a forward and four rounds each, of both
    assert notes == ("the fewest loads, 3, took 9.7 s longer than the time budget allows",)
    assert scripted_bench(tmp_path, loads=None, time_budget_s=90).groups[0].notes == ()


def test_probes_are_one_per_engine(tmp_path: Path) -> None:
    probed: list[str] = []

    class Testbed(FakeTestbed):
        def probe(self, candidate: Candidate, *others: Any) -> Probe:
            probed.append(candidate.label)
            return super().probe(candidate, *others)

    testbed = Testbed(Script(memory_bytes={"tiny-swappable": 7}))
    result = bench_engines(
        [make_family(tmp_path)], BenchOptions(loads=1, rounds=1), testbed=testbed
    )
    rows = rows_of(result)
    assert probed == ["full", "merged r4", "separate r4", "swappable r2"]
    assert rows["swappable r2 fp32"].probe == rows["swappable r4 fp32"].probe
    assert rows["swappable r4 fp32"].probe.memory_bytes == 7
    assert scripted_bench(tmp_path, probe=False).rows[0].probe == Probe()


def test_what_cannot_be_probed_is_a_row_and_the_others_go_on(tmp_path: Path) -> None:
    script = {"failing_probes": {"tiny-swappable": "damaged"}}
    result = scripted_bench(make_family(tmp_path), script)
    rows = rows_of(result)
    assert [rows[f"swappable r{rank} fp32"].failed for rank in (2, 4)] == ["damaged"] * 2
    assert ratio_of(rows["separate r4 fp32"]) == pytest.approx(0.8)
    assert not result.ok


def test_an_engine_that_fails_midway_leaves_the_others_whole_loads(tmp_path: Path) -> None:
    class Testbed(FakeTestbed):
        def spend(self, name: str, adapter: str | None) -> float:
            if name == "tiny-merged-r4" and self.clock > 20:
                raise EngineError("out of memory")
            return super().spend(name, adapter)

    options = BenchOptions(loads=3, rounds=4)
    testbed = Testbed(Script(forward_s=TIMES))
    rows = rows_of(bench_engines([make_family(tmp_path)], options, testbed=testbed))
    merged = rows["merged r4 fp32"]
    assert merged.failed == "out of memory"
    assert {f.load for f in merged.forwards} == {0}
    assert rows["separate r4 fp32"].ratio is not None
    assert rows["separate r4 fp32"].ratio.rounds == 12


def test_interrupted_keeps_whole_rounds(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    make_engine(tmp_path / "b", Tiny(mode="separate", rank=4, name="tiny-separate-r4"))
    # 3 forwards to load and 12 in every round; in the middle of the fourth
    result = scripted_bench(tmp_path, {"interrupt_at": 3 + 3 * 12 + 5})
    assert result.interrupted
    assert [len(row.forwards) for row in result.rows] == [6, 6, 6]


def test_results_are_handed_out_after_every_round(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    seen: list[int] = []
    bench_engines(
        [tmp_path],
        BenchOptions(loads=2, rounds=2),
        testbed=FakeTestbed(Script()),
        on_round=lambda r: seen.append(sum(len(row.forwards) for row in r.rows)),
    )
    assert seen == [0, 4, 8, 12, 16]


def test_the_typical_forward_is_the_median_of_the_loads_medians(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    slow = {0: 1.0, 1: 3.0, 2: 2.0}  # by load

    class Testbed(FakeTestbed):
        loaded = 0

        def load(self, *args: Any) -> FakeEngine:
            type(self).loaded += 1
            return super().load(*args)

        def spend(self, name: str, adapter: str | None) -> float:
            super().spend(name, adapter)
            return slow[(self.loaded - 1) // 2]

    full = bench_engines(
        [tmp_path], BenchOptions(loads=3, rounds=2), testbed=Testbed(Script())
    ).rows[0]
    assert full.seconds == 2.0
    assert full.tokens_per_s == pytest.approx(3)


@pytest.mark.system
def test_on_this_machine(tmp_path: Path) -> None:
    options = BenchOptions(loads=2, rounds=3, threads=1)
    result = bench_engines([make_family(tmp_path)], options)
    assert result.ok
    assert [row.summary.n for row in result.rows if row.summary] == [12] * 6
    assert all(row.probe.memory_bytes for row in shown(result))
    assert all(row.predicted_s for row in result.rows)
    assert result.machine.threads == 1
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert "run_with_iobinding" in result.timed
