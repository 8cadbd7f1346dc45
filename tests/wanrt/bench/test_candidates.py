"""What a bench takes for candidates: groups, baselines, labels, rivals, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from faketestbed import FakeTestbed, Script
from scripted import TIMES, ratio_of, rows_of, scripted_bench, shown
from tinyengines import Tiny, make_engine, make_family, read_raw, write_manifest

from wanrt import bench_engines
from wanrt.bench.options import BenchOptions
from wanrt.errors import ResultsError


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


def test_engines_that_must_not_be_compared_are_groups_told_apart(tmp_path: Path) -> None:
    raw = read_raw(make_engine(tmp_path / "a", Tiny(name="a")))
    others = {"b": {"layout": "split", "cards": "1"}, "c": {"prefuse": "01" * 32}}
    for name, more in others.items():
        folder = make_engine(tmp_path / name, Tiny(name=name))
        write_manifest(folder, read_raw(folder) | {"compared_by": raw["compared_by"] | more})
    models = [group.model for group in scripted_bench(tmp_path).groups]
    assert models == ["tiny", "tiny layout split", "tiny prefuse 010101010101"]


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
    testbed = FakeTestbed(Script())
    places = [tmp_path / "old", tmp_path / "new"]
    result = bench_engines(places, BenchOptions(loads=1, rounds=1), testbed=testbed)
    assert [row.label for row in shown(result)] == ["full old", "full new"]


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


def test_dot_folders_and_other_things_are_ignored(tmp_path: Path) -> None:
    make_engine(tmp_path / "a", Tiny())
    make_engine(tmp_path / ".building", Tiny())
    (tmp_path / ".weights").mkdir()
    (tmp_path / "notes").mkdir()
    assert len(shown(scripted_bench(tmp_path))) == 1


def test_an_engine_given_twice_counts_once(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "a", Tiny())
    result = bench_engines(
        [tmp_path, folder], BenchOptions(rounds=1), testbed=FakeTestbed(Script())
    )
    assert len(shown(result)) == 1


@pytest.mark.parametrize("what", ["missing", "empty", "file"])
def test_nothing_to_bench(tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "empty":
        path.mkdir()
    elif what == "file":
        path.write_text("")
    with pytest.raises(ResultsError):
        bench_engines([path], testbed=FakeTestbed(Script()))


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
