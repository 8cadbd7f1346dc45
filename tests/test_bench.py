"""Benches on a scripted clock: what is measured, in which order, and what becomes of failures."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from tinyengines import Tiny, make_engine, make_family

from wanrt import bench_engines
from wanrt.bench import BenchOptions
from wanrt.errors import ResultsError
from wanrt.fake import FakeLab, Script
from wanrt.machine import available_bytes, usable_cores
from wanrt.manifest import read_manifest
from wanrt.results import BenchResult, CandidateResult

TIMES = {
    "tiny-full": [0.100],
    "tiny-merged-r4": [0.100],
    "tiny-separate-r4": [0.125],
    "tiny-swappable r2": [0.160],
    "tiny-swappable r4": [0.200],
}


def _bench(root: Path, script: dict[str, Any] | None = None, **options: Any) -> BenchResult:
    lab = FakeLab(Script(**({"forward_s": TIMES} | (script or {}))))
    return bench_engines([root], BenchOptions(**({"rounds": 8} | options)), lab=lab)


def _rows(result: BenchResult) -> dict[str, CandidateResult]:
    return {f"{row.label} {row.dtype}": row for row in result.rows}


def _ratio(row: CandidateResult) -> float:
    assert row.ratio is not None
    return row.ratio.value


def test_ratios_to_the_full_engine(tmp_path: Path) -> None:
    rows = _rows(_bench(make_family(tmp_path)))
    assert list(rows) == [
        "full fp32", "merged r4 fp32", "separate r4 fp32", "swappable r2 fp32", "swappable r4 fp32"
    ]  # fmt: skip
    assert _ratio(rows["separate r4 fp32"]) == pytest.approx(0.8)
    assert _ratio(rows["swappable r2 fp32"]) == pytest.approx(0.625)
    assert _ratio(rows["swappable r4 fp32"]) == pytest.approx(0.5)
    verdicts = [row.ratio.verdict for row in rows.values() if row.ratio]
    assert verdicts == ["baseline", "same", "slower", "slower", "slower"]
    assert rows["separate r4 fp32"].tokens_per_s == pytest.approx(6 / 0.125)


def test_each_round_visits_there_and_back(tmp_path: Path) -> None:
    order: list[str] = []

    class Lab(FakeLab):
        def spend(self, name: str, adapter: str | None) -> float:
            order.append(f"{name} {adapter}")
            return super().spend(name, adapter)

    bench_engines([make_family(tmp_path)], BenchOptions(rounds=2, warmup=2), lab=Lab(Script()))
    loading, visits = order[:4], order[4:]
    assert len(set(loading)) == 4
    rounds = [visits[i : i + 30] for i in range(0, len(visits), 30)]
    assert len(rounds) == 3  # the pilot and two
    for one in rounds:
        assert one == one[::-1]
        assert all(one[i] == one[i + 1] == one[i + 2] for i in range(0, 30, 3))
    assert rounds[1] != rounds[2]


def test_a_drifting_machine_hurts_all_alike(tmp_path: Path) -> None:
    class Lab(FakeLab):
        def spend(self, name: str, adapter: str | None) -> float:
            return super().spend(name, adapter) * (1 + self.clock / 20)

    lab = Lab(Script(forward_s={"tiny-full": [0.1], "tiny-separate-r4": [0.125]}))
    make_engine(tmp_path / "a", Tiny())
    make_engine(tmp_path / "b", Tiny(mode="separate", rank=4, name="tiny-separate-r4"))
    rows = _rows(bench_engines([tmp_path], BenchOptions(rounds=12), lab=lab))
    ratio = rows["separate r4 fp32"].ratio
    assert ratio is not None
    assert ratio.value == pytest.approx(0.8, rel=0.01)
    summary = rows["full fp32"].summary
    assert summary is not None
    assert summary.max > 1.4 * summary.min


def test_rounds_follow_from_the_time_budget(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    # a round is two visits of a warm-up and a forward: 0.4 s; loading and the pilot take 0.5 s
    result = _bench(tmp_path, rounds=None, time_budget_s=4.6)
    assert result.groups[0].rounds == 10
    assert _bench(tmp_path, rounds=None, time_budget_s=0).groups[0].rounds == 3
    assert _bench(tmp_path, rounds=None, time_budget_s=1e6).groups[0].rounds == 200


def test_the_first_forward_of_a_visit_is_discarded(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    cold = {"forward_s": {"tiny-full": [9.0, *([5.0, 0.1] * 40)]}}
    row = _rows(_bench(tmp_path, cold))["full fp32"]
    assert {forward.seconds for forward in row.forwards} == {0.1}
    assert len(row.forwards) == 16


def test_unsupported_engines_are_skipped(tmp_path: Path) -> None:
    script = {"unsupported": {"tiny-separate-r4": "built for another machine"}}
    result = _bench(make_family(tmp_path), script)
    assert _rows(result)["separate r4 fp32"].skipped == "built for another machine"
    assert result.ok


def test_failing_engines_are_rows_and_the_others_go_on(tmp_path: Path) -> None:
    result = _bench(make_family(tmp_path), {"failing": {"tiny-separate-r4": "out of memory"}})
    rows = _rows(result)
    assert rows["separate r4 fp32"].failed == "out of memory"
    assert rows["merged r4 fp32"].ratio is not None
    assert not result.ok


def test_unreadable_engines_are_named_and_the_others_go_on(tmp_path: Path) -> None:
    make_family(tmp_path)
    (tmp_path / "tiny-merged-r4" / "engine.json").write_text("{")
    result = _bench(tmp_path)
    assert list(result.broken) == [str(tmp_path / "tiny-merged-r4")]
    assert len(result.rows) == 4
    assert not result.ok


def test_without_a_full_engine_there_are_no_ratios(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny(mode="separate", rank=4, name="tiny-separate-r4"))
    result = _bench(tmp_path)
    assert result.rows[0].ratio is None
    assert result.rows[0].tokens_per_s == pytest.approx(48)
    assert "no `full` engine" in result.groups[0].notes[0]
    assert result.ok


def test_the_baseline_has_the_candidate_s_dtype_if_there_is_one(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny(name="a"))
    make_engine(tmp_path / "b", Tiny(name="b", dtype="fp16"))
    make_engine(tmp_path / "c", Tiny(name="c", dtype="fp16", mode="separate", rank=4))
    make_engine(tmp_path / "d", Tiny(name="d", mode="merged", rank=4))
    rows = _rows(_bench(tmp_path))
    assert rows["separate r4 fp16"].baseline_dtype == "fp16"
    assert rows["merged r4 fp32"].baseline_dtype == "fp32"
    rows = _rows(_bench(tmp_path, {"unsupported": {"b": "no fp16"}}))
    assert rows["separate r4 fp16"].baseline_dtype == "fp32"


def test_models_and_workloads_are_groups_of_their_own(tmp_path: Path) -> None:
    two = {"large": 10, "small": 6}
    make_engine(tmp_path / "a", Tiny(name="a", workloads=two))
    make_engine(tmp_path / "b", Tiny(name="b", model="other"))
    groups = [(group.model, group.workload) for group in _bench(tmp_path).groups]
    assert groups == [("other", "64x32x1"), ("tiny", "large"), ("tiny", "small")]
    (group,) = _bench(tmp_path, workload="small").groups
    assert group.candidates[0].tokens == 6
    with pytest.raises(ResultsError, match="no engine has the workload 'x'"):
        _bench(tmp_path, workload="x")


def test_engines_that_do_not_fit_together_are_measured_in_pairs(tmp_path: Path) -> None:
    make_family(tmp_path)
    pair = 2 * sum(
        read_manifest(tmp_path / f"tiny-{n}").weight_bytes for n in ("full", "separate-r4")
    )
    result = _bench(tmp_path, {"available_bytes": pair})
    rows = _rows(result)
    assert "measured in pairs" in result.groups[0].notes[0]
    assert {f.load for f in rows["full fp32"].forwards} == {0, 1, 2}
    assert {f.load for f in rows["swappable r2 fp32"].forwards} == {2}
    assert _ratio(rows["swappable r4 fp32"]) == pytest.approx(0.5)
    assert rows["separate r4 fp32"].ratio is not None


def test_a_pair_that_does_not_fit_is_skipped(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    make_engine(tmp_path / "b", Tiny(mode="separate", rank=4, name="b"))
    one = 2 * read_manifest(tmp_path / "b").weight_bytes
    result = _bench(tmp_path, {"available_bytes": one})
    rows = _rows(result)
    assert "together with its baseline, 0.0 GiB are free" in (
        rows["separate r4 fp32"].skipped or ""
    )
    assert rows["full fp32"].forwards
    assert not any("in pairs" in note for note in result.groups[0].notes)
    assert result.ok


def test_unknown_device_memory_means_pairs(tmp_path: Path) -> None:
    result = _bench(make_family(tmp_path), {"available_bytes": None}, device="cuda")
    assert "memory isn't known" in result.groups[0].notes[0]
    assert _rows(result)["separate r4 fp32"].ratio is not None


def test_page_cache_is_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"max": "1000", "current": "900", "stat": "anon 1\ninactive_file 300\nactive_file 50\n"}
    for name, text in files.items():
        (tmp_path / f"memory.{name}").write_text(text)
    monkeypatch.setattr("wanrt.machine.CGROUP", tmp_path)
    assert available_bytes() == 450


def test_memory_of_later_groups_is_not_told(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny(model="a"))
    make_engine(tmp_path / "b", Tiny(model="b"))
    assert [row.probe.memory_bytes is None for row in _bench(tmp_path).rows] == [False, True]


def test_the_fewest_rounds_may_exceed_the_budget(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    notes = _bench(tmp_path, rounds=None, time_budget_s=0.5).groups[0].notes
    assert notes == ("the time budget of 0.5 s was exceeded by the fewest rounds, 3",)
    assert _bench(tmp_path, rounds=None, time_budget_s=9).groups[0].notes == ()


def test_an_engine_larger_than_the_memory_is_skipped(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    result = _bench(tmp_path, {"available_bytes": 10})
    assert "--mapped" in (result.rows[0].skipped or "")
    assert not result.ok
    assert _bench(tmp_path, {"available_bytes": 10}, mapped=True).ok


def test_memory_is_what_the_process_grew_by(tmp_path: Path) -> None:
    rows = _rows(_bench(make_family(tmp_path), {"memory_bytes": {"tiny-swappable": 7}}))
    assert rows["swappable r2 fp32"].probe.memory_bytes == 7
    assert rows["swappable r4 fp32"].probe.memory_bytes == 7
    assert rows["full fp32"].probe.memory_bytes == 0


def test_interrupted_keeps_whole_rounds(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    make_engine(tmp_path / "b", Tiny(mode="separate", rank=4, name="tiny-separate-r4"))
    # 2 forwards to load, 8 in the pilot and in every round; in the middle of the fourth
    result = _bench(tmp_path, {"interrupt_at": 2 + 4 * 8 + 3})
    assert result.interrupted
    assert result.groups[0].rounds == 3
    assert [len(row.forwards) for row in result.rows] == [6, 6]


def test_results_are_handed_out_after_every_round(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    seen: list[int] = []
    lab = FakeLab(Script())
    bench_engines(
        [tmp_path],
        BenchOptions(rounds=3),
        lab=lab,
        on_round=lambda r: seen.append(sum(len(row.forwards) for row in r.rows)),
    )
    assert seen == [0, 2, 4, 6]


def test_equal_labels_get_what_tells_them_apart(tmp_path: Path) -> None:
    for name in (
        "wan-fp32-separate-r4",
        "wan-fp32-separate-r4-mylora",
        "wan-fp32-separate-r4-x0.5",
    ):
        make_engine(tmp_path / name, Tiny(name=name, mode="separate", rank=4))
    for name in ("old-full", "new-full"):
        make_engine(tmp_path / name, Tiny(name=name))
    assert [row.label for row in _bench(tmp_path).rows] == [
        "full new", "full old", "separate r4", "separate r4 mylora", "separate r4 x0.5"
    ]  # fmt: skip


def test_tokens_per_second_and_ratio_come_from_the_same_rounds(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    make_engine(tmp_path / "b", Tiny(mode="separate", rank=4, name="b"))
    script = {"forward_s": {"tiny-full": [1.0, 4.0], "b": [2.0]}}
    full, separate = _bench(tmp_path, script, warmup=0).rows
    assert full.seconds == pytest.approx(2.0)  # of visits that take 1 and 4
    assert (full.tokens_per_s, separate.tokens_per_s) == (pytest.approx(3), pytest.approx(3))
    assert _ratio(separate) == pytest.approx(1.0)


def test_dot_folders_and_other_things_are_ignored(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    make_engine(tmp_path / ".building", Tiny())
    (tmp_path / ".weights").mkdir()
    (tmp_path / "notes").mkdir()
    assert len(_bench(tmp_path).rows) == 1


def test_an_engine_given_twice_counts_once(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "a", Tiny())
    result = bench_engines([tmp_path, folder], BenchOptions(rounds=1), lab=FakeLab(Script()))
    assert len(result.rows) == 1


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_nothing_to_bench(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.write_text("")
    with pytest.raises(ResultsError):
        bench_engines([path], lab=FakeLab(Script()))


ADVICE = {
    "slow-first-run": [0.9, *[0.1, 0.11] * 20],
    "outliers": [0.1, 0.101, 0.1, 0.101, 0.1, 0.9, *[0.1, 0.101] * 20],
    "unstable": [0.1, 0.12],
}


@pytest.mark.parametrize("code", ADVICE)
def test_warnings(tmp_path: Path, code: str) -> None:
    make_engine(tmp_path / "a", Tiny())
    script = {"forward_s": {"tiny-full": ([0.1] * 3) + ADVICE[code]}}
    row = _bench(tmp_path, script, warmup=0).rows[0]
    assert code in [advice.code for advice in row.advice]


def test_too_few_rounds_are_unresolved(tmp_path: Path) -> None:
    row = _rows(_bench(make_family(tmp_path), rounds=3))["separate r4 fp32"]
    assert row.ratio is not None
    assert row.ratio.low is None
    assert [advice.code for advice in row.advice] == ["unresolved"]


def test_a_busy_machine_is_told(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    result = _bench(tmp_path, {"machine": {"load_average": 1.5}})
    assert [advice.code for advice in result.advice] == ["busy-machine"]
    script = {"machine": {"load_average": 1.5}, "unsupported": {"tiny-full": "no"}}
    assert _bench(tmp_path, script).advice == ()


def test_on_this_machine(tmp_path: Path) -> None:
    result = bench_engines([make_family(tmp_path)], BenchOptions(rounds=6, threads=1))
    assert result.ok
    assert [row.summary.n for row in result.rows if row.summary] == [12] * 5
    assert result.machine.threads == 1
    assert 1 <= usable_cores() <= (os.cpu_count() or 1)
    assert "run_with_iobinding" in result.timed
