"""Benches on a scripted clock: what is measured, in which order, and what becomes of failures."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from scripted import TIMES, ratio_of, rows_of, scripted_bench, shown
from tinyengines import Tiny, make_engine, make_family

from wanrt import bench_engines
from wanrt.bench import BenchOptions
from wanrt.candidates import Candidate
from wanrt.errors import EngineError, ResultsError
from wanrt.fake import FakeEngine, FakeLab, Script
from wanrt.machine import usable_cores
from wanrt.results import BenchResult, CandidateResult
from wanrt.values import Probe


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

    class Lab(FakeLab):
        def spend(self, name: str, adapter: str | None) -> float:
            order.append(f"{name} {adapter}")
            return super().spend(name, adapter)

    options = BenchOptions(loads=2, rounds=2, warmup=2)
    bench_engines([make_family(tmp_path)], options, lab=Lab(Script()))
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
    class Lab(FakeLab):
        def spend(self, name: str, adapter: str | None) -> float:
            return super().spend(name, adapter) * (1 + self.clock / 20)

    lab = Lab(Script(forward_s={"tiny-full": [0.1], "tiny-separate-r4": [0.125]}))
    make_engine(tmp_path / "a", Tiny())
    make_engine(tmp_path / "b", Tiny(mode="separate", rank=4, name="tiny-separate-r4"))
    rows = rows_of(bench_engines([tmp_path], BenchOptions(loads=3, rounds=4), lab=lab))
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


def test_without_a_full_engine_there_are_no_ratios(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny(mode="separate", rank=4, name="tiny-separate-r4"))
    result = scripted_bench(tmp_path)
    assert result.rows[0].ratio is None
    assert result.rows[0].tokens_per_s == pytest.approx(48)
    assert "no `full` engine" in result.groups[0].notes[0]
    assert result.ok


def test_the_baseline_has_the_candidate_s_dtype_if_there_is_one(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny(name="a"))
    make_engine(tmp_path / "b", Tiny(name="b", dtype="fp16"))
    make_engine(tmp_path / "c", Tiny(name="c", dtype="fp16", mode="separate", rank=4))
    make_engine(tmp_path / "d", Tiny(name="d", mode="merged", rank=4))
    rows = rows_of(scripted_bench(tmp_path))
    assert rows["separate r4 fp16"].baseline_dtype == "fp16"
    assert rows["merged r4 fp32"].baseline_dtype == "fp32"
    rows = rows_of(scripted_bench(tmp_path, {"unsupported": {"b": "no fp16"}}))
    assert rows["separate r4 fp16"].baseline_dtype == "fp32"


def test_models_and_workloads_are_groups_of_their_own(tmp_path: Path) -> None:
    two = {"large": 10, "small": 6}
    make_engine(tmp_path / "a", Tiny(name="a", workloads=two))
    make_engine(tmp_path / "b", Tiny(name="b", model="other"))
    groups = [(group.model, group.workload) for group in scripted_bench(tmp_path).groups]
    assert groups == [("other", "64x32x1"), ("tiny", "large"), ("tiny", "small")]
    (group,) = scripted_bench(tmp_path, workload="small").groups
    assert group.candidates[0].tokens == 6
    with pytest.raises(ResultsError, match="no engine has the workload 'x'"):
        scripted_bench(tmp_path, workload="x")


def test_the_fewest_loads_may_exceed_the_budget(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    notes = scripted_bench(tmp_path, loads=None, time_budget_s=0.5).groups[0].notes
    # three loads of a forward and four rounds each, of both
    assert notes == ("the fewest loads, 3, took 9.7 s longer than the time budget allows",)
    assert scripted_bench(tmp_path, loads=None, time_budget_s=90).groups[0].notes == ()


def test_probes_are_one_per_engine(tmp_path: Path) -> None:
    probed: list[str] = []

    class Lab(FakeLab):
        def probe(self, candidate: Candidate, *others: Any) -> Probe:
            probed.append(candidate.label)
            return super().probe(candidate, *others)

    lab = Lab(Script(memory_bytes={"tiny-swappable": 7}))
    result = bench_engines([make_family(tmp_path)], BenchOptions(loads=1, rounds=1), lab=lab)
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
    class Lab(FakeLab):
        def spend(self, name: str, adapter: str | None) -> float:
            if name == "tiny-merged-r4" and self.clock > 20:
                raise EngineError("out of memory")
            return super().spend(name, adapter)

    options = BenchOptions(loads=3, rounds=4)
    lab = Lab(Script(forward_s=TIMES))
    rows = rows_of(bench_engines([make_family(tmp_path)], options, lab=lab))
    merged = rows["merged r4 fp32"]
    assert merged.failed == "out of memory"
    assert {f.load for f in merged.forwards} == {0}
    assert rows["separate r4 fp32"].ratio is not None
    assert rows["separate r4 fp32"].ratio.rounds == 12


def test_a_failed_baseline_gives_way_to_another(tmp_path: Path) -> None:
    for name in ("aaa", "bbb"):
        make_engine(tmp_path / name, Tiny(name=name))
    make_engine(tmp_path / "s", Tiny(name="s", mode="separate", rank=4))
    result = scripted_bench(tmp_path, {"failing": {"aaa": "damaged"}})
    assert rows_of(result)["separate r4 fp32"].baseline == "full bbb"
    assert result.groups[0].notes[-1].startswith("full aaa failed: ratios are to another full")
    # one that can't run here is none from the start, and the control is the other's
    result = scripted_bench(tmp_path, {"unsupported": {"aaa": "no"}})
    assert [row.label for row in result.rows if row.control] == ["full bbb A/A"]


def test_engines_of_the_same_folder_names_are_told_apart(tmp_path: Path) -> None:
    for place in ("old", "new"):
        make_engine(tmp_path / place / "full", Tiny())
    lab = FakeLab(Script())
    places = [tmp_path / "old", tmp_path / "new"]
    result = bench_engines(places, BenchOptions(loads=1, rounds=1), lab=lab)
    assert [row.label for row in shown(result)] == ["full old", "full new"]


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
        lab=FakeLab(Script()),
        on_round=lambda r: seen.append(sum(len(row.forwards) for row in r.rows)),
    )
    assert seen == [0, 4, 8, 12, 16]


def test_equal_labels_get_what_tells_them_apart(tmp_path: Path) -> None:
    for name in (
        "wan-fp32-separate-r4",
        "wan-fp32-separate-r4-mylora",
        "wan-fp32-separate-r4-x0.5",
    ):
        make_engine(tmp_path / name, Tiny(name=name, mode="separate", rank=4))
    for name in ("old-full", "new-full"):
        make_engine(tmp_path / name, Tiny(name=name))
    result = scripted_bench(tmp_path)
    assert [row.label for row in result.rows] == [
        "full new", "full old", "separate r4", "separate r4 mylora", "separate r4 x0.5",
        "full new A/A",
    ]  # fmt: skip
    assert "2 full engines: ratios are to full new" in result.groups[0].notes[0]


def test_a_fine_tune_is_the_baseline_before_the_base(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny(name="a", full_finetune=False))
    make_engine(tmp_path / "b", Tiny(name="b", full_finetune=True))
    verdicts = {
        row.engine[-1]: row.ratio and row.ratio.verdict for row in shown(scripted_bench(tmp_path))
    }
    assert verdicts == {"b": "baseline", "a": "same"}


def test_the_typical_forward_is_the_median_of_the_loads_medians(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    slow = {0: 1.0, 1: 3.0, 2: 2.0}  # by load

    class Lab(FakeLab):
        loaded = 0

        def load(self, *args: Any) -> FakeEngine:
            type(self).loaded += 1
            return super().load(*args)

        def spend(self, name: str, adapter: str | None) -> float:
            super().spend(name, adapter)
            return slow[(self.loaded - 1) // 2]

    full = bench_engines([tmp_path], BenchOptions(loads=3, rounds=2), lab=Lab(Script())).rows[0]
    assert full.seconds == 2.0
    assert full.tokens_per_s == pytest.approx(3)


def test_dot_folders_and_other_things_are_ignored(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    make_engine(tmp_path / ".building", Tiny())
    (tmp_path / ".weights").mkdir()
    (tmp_path / "notes").mkdir()
    assert len(shown(scripted_bench(tmp_path))) == 1


def test_an_engine_given_twice_counts_once(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "a", Tiny())
    result = bench_engines([tmp_path, folder], BenchOptions(rounds=1), lab=FakeLab(Script()))
    assert len(shown(result)) == 1


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_nothing_to_bench(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.write_text("")
    with pytest.raises(ResultsError):
        bench_engines([path], lab=FakeLab(Script()))


class Loaded(FakeLab):
    """Every load of an engine has a speed of its own: what the script says, one after another."""

    def load(self, *args: Any) -> FakeEngine:
        engine = super().load(*args)
        seconds = super().spend(f"load {engine._name}", None)
        engine.time_forward = lambda: seconds  # type: ignore[method-assign]
        return engine


def _load_by_load(root: Path, **by_load: list[float]) -> dict[str, CandidateResult]:
    forward_s = {f"load {name}": times for name, times in by_load.items()}
    options = BenchOptions(loads=6, rounds=2, half_width=0.01)
    result = bench_engines([root], options, lab=Loaded(Script(forward_s=forward_s)))
    return {row.label: row for row in result.rows}


def test_a_claim_must_exceed_the_controls(tmp_path: Path) -> None:
    for name, mode in (("f", "full"), ("m", "merged"), ("s", "separate")):
        make_engine(tmp_path / name, Tiny(name=name, mode=mode, rank=4 if mode != "full" else None))
    steady = {"f": [1.0], "m": [1.0], "s": [1.02]}
    rows = _load_by_load(tmp_path, **steady)
    assert [rows[name].ratio.verdict for name in ("merged r4", "separate r4")] == ["same", "slower"]  # type: ignore[union-attr]
    # merged runs full's own graph: what it shows without a reason is no finding elsewhere
    rows = _load_by_load(tmp_path, **(steady | {"m": [1.03]}))
    merged, separate = rows["merged r4"], rows["separate r4"]
    assert merged.ratio is not None
    assert separate.ratio is not None
    assert (merged.ratio.verdict, separate.ratio.verdict) == ("slower", "same")
    assert "control" in [advice.code for advice in merged.advice]


def test_loads_that_scatter_are_no_claim_however_many_rounds(tmp_path: Path) -> None:
    make_engine(tmp_path / "f", Tiny(name="f"))
    make_engine(tmp_path / "s", Tiny(name="s", mode="separate", rank=4))
    scatter = [1.02, 0.99, 1.03, 1.0, 0.98, 1.01]
    row = _load_by_load(tmp_path, f=[1.0], s=scatter)["separate r4"]
    assert row.ratio is not None
    assert (row.ratio.loads, row.ratio.rounds, row.ratio.verdict) == (6, 12, "same")
    assert [advice.code for advice in row.advice] == ["unresolved"]


def test_claims_are_corrected_for_their_number(tmp_path: Path) -> None:
    make_engine(tmp_path / "f", Tiny(name="f"))
    for rank in range(1, 10):
        make_engine(tmp_path / f"s{rank}", Tiny(name=f"s{rank}", mode="separate", rank=rank))
    shifted = [1.006, 0.9995, 1.008, 1.002, 1.007, 1.003]
    alone = _load_by_load(tmp_path / "f", f=[1.0])
    assert list(alone) == ["full", "full A/A"]
    equal = {f"s{rank}": [1.0] for rank in range(1, 10)}
    rows = _load_by_load(tmp_path, **{"f": [1.0]} | equal | {"s3": shifted})
    assert rows["separate r3"].ratio is not None
    assert rows["separate r3"].ratio.high is not None
    assert rows["separate r3"].ratio.p is not None
    own = 1 - rows["separate r3"].ratio.high
    assert own > 0  # the interval excludes 1, and yet:
    assert rows["separate r3"].ratio.verdict == "same"
    assert 0.05 < rows["separate r3"].ratio.p < 0.5


class TestResume:
    def test_goes_on_after_the_last_whole_load(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        whole = scripted_bench(tmp_path)
        # five loaded and four rounds of six visits of two forwards, there and back
        part = scripted_bench(tmp_path, {"interrupt_at": 2 * (5 + 4 * 24) + 40})
        assert part.interrupted
        lab = FakeLab(Script(forward_s=TIMES))
        options = BenchOptions(loads=3, rounds=4)
        result = bench_engines([tmp_path], options, lab=lab, earlier=part)
        assert not result.interrupted
        assert next(lab.forwards) == 5 + 4 * 24 + 1  # one load was left
        assert [row.forwards for row in result.rows] == [row.forwards for row in whole.rows]

    def test_what_is_whole_is_only_shown(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        whole = scripted_bench(tmp_path)
        lab = FakeLab(Script())
        options = BenchOptions(loads=3, rounds=4)
        again = bench_engines([tmp_path], options, lab=lab, earlier=whole)
        assert next(lab.forwards) == 1
        assert again.rows == whole.rows
        assert again.timed == whole.timed

    def test_another_aim_is_taken_up(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        script = {"forward_s": TIMES | {"tiny-separate-r4": [0.12, 0.13, 0.125, 0.11, 0.14]}}
        short = scripted_bench(tmp_path, script, loads=None, time_budget_s=1.0)
        assert short.groups[0].loads == 3
        lab = FakeLab(Script(**script))
        options = BenchOptions(rounds=4, half_width=1e-9, time_budget_s=100.0)
        longer = bench_engines([tmp_path], options, lab=lab, earlier=short)
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
                lab=FakeLab(Script(available_bytes=6000)),
                earlier=whole,
                on_round=saved.append,
            )
        assert [one.rows for one in saved] == [whole.rows]

    def test_what_failed_before_keeps_the_others_from_nothing(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        part = scripted_bench(tmp_path, {"failing": {"tiny-merged-r4": "damaged"}})
        lab = FakeLab(Script(forward_s=TIMES))
        options = BenchOptions(loads=3, rounds=4)
        again = bench_engines([tmp_path], options, lab=lab, earlier=part)
        assert next(lab.forwards) == 1
        assert len(again.rows[0].forwards) == 24

    def test_a_model_that_is_gone_is_refused(self, tmp_path: Path) -> None:
        make_engine(tmp_path / "a", Tiny(model="a"))
        make_engine(tmp_path / "b", Tiny(model="b"))
        whole = scripted_bench(tmp_path)
        with pytest.raises(ResultsError, match="the earlier bench also had b 64x32x1"):
            options = BenchOptions(loads=3, rounds=4)
            bench_engines([tmp_path / "a"], options, lab=FakeLab(Script()), earlier=whole)

    def test_in_pairs(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        script = {"available_bytes": 6000}
        part = scripted_bench(tmp_path, script | {"interrupt_at": 150})
        assert part.groups[0].sets == 4
        lab = FakeLab(Script(forward_s=TIMES, available_bytes=6000))
        options = BenchOptions(loads=3, rounds=4)
        result = bench_engines([tmp_path], options, lab=lab, earlier=part)
        whole = scripted_bench(tmp_path, script)
        assert [row.forwards for row in result.rows] == [row.forwards for row in whole.rows]
        with pytest.raises(ResultsError, match="in 1 sets, not 4"):
            bench_engines([tmp_path], options, lab=FakeLab(Script()), earlier=part)

    def test_refuses_another_bench(self, tmp_path: Path) -> None:
        make_family(tmp_path)
        part = scripted_bench(tmp_path)
        options = BenchOptions(loads=3, rounds=4)
        with pytest.raises(ResultsError, match="another machine"):
            other = FakeLab(Script(machine={"processor": "Other"}))
            bench_engines([tmp_path], options, lab=other, earlier=part)
        with pytest.raises(ResultsError, match="another --warmup"):
            wider = BenchOptions(loads=3, rounds=4, warmup=3)
            bench_engines([tmp_path], wider, lab=FakeLab(Script()), earlier=part)
        make_engine(tmp_path / "new", Tiny(name="new", mode="separate", rank=2))
        with pytest.raises(ResultsError, match="new isn't what the earlier bench measured"):
            bench_engines([tmp_path], options, lab=FakeLab(Script()), earlier=part)
        shutil.rmtree(tmp_path / "new")
        shutil.rmtree(tmp_path / "tiny-merged-r4")
        with pytest.raises(ResultsError, match="had merged r4 fp32, which is gone"):
            bench_engines([tmp_path], options, lab=FakeLab(Script()), earlier=part)


def test_rivals_take_the_baseline_s_weights(tmp_path: Path) -> None:
    make_family(tmp_path)
    script = {"rivals": ["eager"], "forward_s": TIMES | {"eager": [0.2]}}
    result = scripted_bench(tmp_path, script, rivals=("eager",))
    rows = rows_of(result)
    assert result.machine.headline[-1] == "torch 4.5.6"
    rival = rows["eager fp32"]
    assert (rival.rival, Path(rival.engine).name) == ("eager", "tiny-full")
    assert ratio_of(rival) == pytest.approx(0.5)
    with pytest.raises(ResultsError, match="no rival other"):
        scripted_bench(tmp_path, script, rivals=("other",))
    shutil.rmtree(tmp_path / "tiny-full")
    result = scripted_bench(tmp_path, script, rivals=("eager",))
    assert "no `full` engine whose weights eager could run with" in result.groups[0].notes


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
