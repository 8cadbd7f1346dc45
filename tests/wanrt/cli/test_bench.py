"""`wanrt bench` as a command: what it prints and saves, how it exits, and how it goes on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import wanrt
from tinyengines import Tiny, make_engine


def test_bench_prints_a_table_and_saves(
    family: Path, scripted: Callable[..., None], tmp_path: Path
) -> None:
    scripted(forward_s={"tiny-separate-r4": [0.125]})
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "markdown")}
    flags = [part for kind, path in files.items() for part in (f"--{kind}", path)]
    code, out, err = wanrt("bench", family, "--rounds", 8, *flags)
    assert code == 0
    assert out.startswith("A separate adapter of rank 4 costs 20.0 % of the speed (")
    assert err.splitlines() == [f"saved {path}" for path in files.values()]
    assert len(json.loads(files["json"].read_text())["results"]) == 6  # the control too
    assert files["csv"].read_text().startswith("model,workload")
    assert "| separate r4 | fp32 |" in files["markdown"].read_text()


@pytest.mark.parametrize("kind", ["json", "csv", "markdown"])
@pytest.mark.usefixtures("scripted")
def test_results_on_stdout_move_the_table_to_stderr(family: Path, kind: str) -> None:
    code, out, err = wanrt("bench", family, "--rounds", 6, f"--{kind}", "-")
    assert code == 0
    assert "Fake CPU · 2 cores" in err
    starts = {"json": "{", "csv": "model,", "markdown": "A separate adapter"}
    assert out.startswith(starts[kind])
    if kind == "json":
        json.loads(out)


def test_a_failing_engine_exits_with_1(family: Path, scripted: Callable[..., None]) -> None:
    scripted(failing={"tiny-merged-r4": "out of memory"})
    code, out, _ = wanrt("bench", family, "--rounds", 6)
    assert code == 1
    assert "failed: out of memory" in out
    assert "separate r4" in out


def test_a_skipped_engine_exits_with_0_unless_nothing_ran(
    family: Path, scripted: Callable[..., None]
) -> None:
    scripted(unsupported={"tiny-merged-r4": "too new"})
    code, out, _ = wanrt("bench", family, "--rounds", 6)
    assert (code, "skipped: too new" in out) == (0, True)
    code, _, _ = wanrt("bench", family / "tiny-merged-r4")
    assert code == 1


def test_interrupted_exits_with_130_and_keeps_what_it_has(
    family: Path, scripted: Callable[..., None], tmp_path: Path
) -> None:
    path = tmp_path / "out.json"
    scripted(interrupt_at=100)
    code, out, _ = wanrt("bench", family, "--rounds", 50, "--json", path)
    assert code == 130
    assert "interrupted: only what was measured until then is shown" in out
    value = json.loads(path.read_text())
    assert value["context"]["interrupted"]
    assert value["results"][0]["forward_s"]["times"]


@pytest.mark.system
def test_bench_on_this_machine(family: Path) -> None:
    make_engine(family / "tiny-bf16", Tiny(name="tiny-bf16", dtype="bf16"))
    code, out, _ = wanrt("bench", family, "--loads", 2, "--rounds", 3, "--threads", 1, "-v")
    assert code == 0
    assert "skipped: bf16 doesn't run on ONNX Runtime's CPU" in out
    assert "n 12 · min" in out
    assert "random weights" in out


def test_a_broken_off_bench_goes_on(
    family: Path, scripted: Callable[..., None], tmp_path: Path
) -> None:
    saved = tmp_path / "bench.json"
    fixed = ("--loads", 3, "--rounds", 2, "--json", saved)
    scripted(interrupt_at=150)
    code, out, err = wanrt("bench", family, *fixed)
    assert code == 130
    assert "interrupted" in out
    assert f"to continue: wanrt bench ... --resume --json {saved}" in err
    part = json.loads(saved.read_text())["results"][0]["forward_s"]
    scripted()
    code, _, _ = wanrt("bench", family, *fixed, "--resume")
    assert code == 0
    whole = json.loads(saved.read_text())["results"][0]["forward_s"]
    assert len(part["times"]) < len(whole["times"]) == 12
    assert whole["loads"] == [0] * 4 + [1] * 4 + [2] * 4
    code, _, err = wanrt("bench", family, *fixed, "--warmup", 2, "--resume")
    assert code == 1
    assert "had another --warmup" in err


@pytest.mark.usefixtures("scripted")
def test_resume_without_a_file_begins(family: Path, tmp_path: Path) -> None:
    new = ("--resume", "--json", tmp_path / "new.json")
    assert wanrt("bench", family, "--loads", 1, *new)[0] == 0
    code, _, err = wanrt("bench", family, "--resume")
    assert code == 2
    assert "--resume needs --json FILE" in err


@pytest.mark.parametrize("value", ["0.5", "0%", "100%", "half", "-1%"])
def test_percentages_have_their_sign(family: Path, value: str) -> None:
    code, _, err = wanrt("bench", family, "--half-width", value)
    assert code == 2
    assert "isn't a percentage, such as 0.5%" in " ".join(err.split())


def test_an_unknown_rival_is_named(family: Path) -> None:
    code, _, err = wanrt("bench", family, "--with", "torch-egger")
    assert code == 1
    assert "there is no rival 'torch-egger'" in err
    assert "torch-eager" in err
