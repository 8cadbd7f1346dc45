"""The wanrt command: what it calls, prints, saves, and how it exits."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from tinyengines import (
    Tiny,
    adapter_tensors,
    expect,
    make_engine,
    make_family,
    touch_ns,
)

import wanrt
from wanrt.cli import main

Wanrt = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Wanrt:
    """Run the command in this process; return its exit code, stdout and stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as caught:
            main([str(arg) for arg in argv])
        out, err = capsys.readouterr()
        return int(caught.value.code or 0), out, err

    return run


@pytest.fixture
def family(tmp_path: Path) -> Path:
    return make_family(tmp_path / "engines")


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Path]:
    def write(**script: Any) -> Path:
        path = tmp_path / "script.json"
        path.write_text(json.dumps(script))
        return path

    return write


def test_public_names() -> None:
    assert dir(wanrt) == wanrt.__all__
    assert len(wanrt.__all__) <= 6
    assert all(getattr(wanrt, name) is not None for name in wanrt.__all__)
    with pytest.raises(AttributeError, match="no attribute 'x'"):
        wanrt.x  # noqa: B018


def test_help_starts_fast_and_bare() -> None:
    code = (
        "import sys\n"
        "from wanrt.cli import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'diffusers', 'wanexport', 'onnxruntime', 'scipy', 'numpy', 'onnx',\n"
        "         'pydantic', 'rich', 'safetensors', 'psutil', 'matplotlib',\n"
        "         'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


def test_help_takes_no_time() -> None:
    def seconds() -> float:
        start = time.perf_counter()
        subprocess.run([sys.executable, "-m", "wanrt", "--help"], capture_output=True, check=True)
        return time.perf_counter() - start

    assert min(seconds() for _ in range(3)) < 0.3


def test_running_imports_neither_torch_nor_wanexport(family: Path) -> None:
    code = (
        "import sys, wanrt\n"
        f"with wanrt.load_engine({str(family / 'tiny-full')!r}): pass\n"
        "import wanrt.bench, wanrt.cli, wanrt.formats, wanrt.report, wanrt.verify, wanrt.info\n"
        "print(sorted({'torch', 'diffusers', 'wanexport', 'scipy'} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


USAGE: dict[str, list[str]] = {
    "no such command": ["measure"],
    "unknown flag": ["bench", "x", "--colour"],
    "unknown device": ["bench", "x", "--device", "tpu"],
    "no threads": ["bench", "x", "--threads", "0"],
    "negative warm-up": ["bench", "x", "--warmup", "-1"],
    "budget as text": ["bench", "x", "--time-budget", "long"],
    "two results on stdout": ["bench", "x", "--json", "-", "--csv", "-"],
    "run without --save": ["run", "x"],
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_exits_with_2(call: Wanrt, case: str) -> None:
    code, out, err = call(*USAGE[case])
    assert code == 2
    assert not out
    assert "Traceback" not in err


MISTAKES: dict[str, tuple[list[str], str]] = {
    "bench without engines/": (["bench"], "engines is no folder"),
    "verify without engines/": (["verify"], "engines is no folder"),
    "bench of nothing": (["bench", "{tmp}/none"], "is no folder"),
    "bench of an empty folder": (["bench", "{tmp}"], "holds no engine"),
    "unknown workload": (["bench", "{e}", "--workload", "x"], "no engine has the workload 'x'"),
    "results to nowhere": (["bench", "{e}", "--json", "{tmp}/no/x.json"], "can't be written"),
    "script that isn't": (["bench", "{e}", "--fake", "{e}/tiny-full/model.onnx"], "no script"),
    "info of nothing": (["info", "{tmp}"], "is not an engine folder"),
    "verify nothing": (["verify", "{tmp}/none"], "is no folder"),
    "run without engine": (["run", "{tmp}", "--save", "{tmp}/o"], "is not an engine folder"),
    "run on CUDA": (["run", "{e}/tiny-full", "--save", "{tmp}/o", "--device", "cuda"], "CUDA"),
    "run to nowhere": (["run", "{e}/tiny-full", "--save", "{tmp}/no/o"], "can't be written"),
    "run with no such inputs": (
        ["run", "{e}/tiny-full", "--save", "{tmp}/o", "--inputs", "{tmp}/i"], "can't be read"),
    "run with other inputs": (
        ["run", "{e}/tiny-full", "--save", "{tmp}/o", "--inputs",
         "{e}/tiny-full/weights/tiny.safetensors"], "no input"),
    "adapter for a fixed engine": (
        ["run", "{e}/tiny-full", "--save", "{tmp}/o", "--adapter", "{tmp}/a"], "is fixed"),
    "no such adapter": (
        ["run", "{e}/tiny-swappable", "--save", "{tmp}/o", "--adapter", "{tmp}/a"], "can't be"),
    "no such workload": (
        ["run", "{e}/tiny-full", "--save", "{tmp}/o", "--workload", "x"], "no workload 'x'"),
}  # fmt: skip


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_an_error_in_one_line(
    call: Wanrt, tmp_path: Path, family: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    argv, message = MISTAKES[case]
    if "CUDA" in case and _has_cuda():
        pytest.skip("this machine has what the case lacks")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    code, out, err = call(*(arg.format(tmp=empty, e=family) for arg in argv))
    assert code == 1
    assert not out
    lines = err.splitlines()
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert all(line.startswith("hint: ") for line in lines[1:])
    assert list(empty.iterdir()) == []


def _has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


def test_bench_prints_a_table_and_saves(
    call: Wanrt, family: Path, fake: Callable[..., Path], tmp_path: Path
) -> None:
    script = fake(forward_s={"tiny-separate-r4": [0.125]})
    files = {kind: tmp_path / f"out.{kind}" for kind in ("json", "csv", "markdown")}
    flags = [part for kind, path in files.items() for part in (f"--{kind}", path)]
    code, out, err = call("bench", family, "--fake", script, "--rounds", 8, *flags)
    assert code == 0
    assert "separate r4 runs at 0.800 x the full fine-tune, 95 % interval 0.800 to" in out
    assert err.splitlines() == [f"saved {path}" for path in files.values()]
    assert len(json.loads(files["json"].read_text())["results"]) == 6  # the control too
    assert files["csv"].read_text().startswith("model,workload")
    assert "| separate r4 | fp32 |" in files["markdown"].read_text()


@pytest.mark.parametrize("kind", ["json", "csv", "markdown"])
def test_results_on_stdout_move_the_table_to_stderr(
    call: Wanrt, family: Path, fake: Callable[..., Path], kind: str
) -> None:
    code, out, err = call("bench", family, "--fake", fake(), "--rounds", 6, f"--{kind}", "-")
    assert code == 0
    assert "Fake CPU · 2 cores" in err
    starts = {"json": "{", "csv": "model,", "markdown": "Fake CPU"}
    assert out.startswith(starts[kind])
    if kind == "json":
        json.loads(out)


def test_a_failing_engine_exits_with_1(
    call: Wanrt, family: Path, fake: Callable[..., Path]
) -> None:
    script = fake(failing={"tiny-merged-r4": "out of memory"})
    code, out, _ = call("bench", family, "--fake", script, "--rounds", 6)
    assert code == 1
    assert "failed: out of memory" in out
    assert "separate r4" in out


def test_a_skipped_engine_exits_with_0_unless_nothing_ran(
    call: Wanrt, family: Path, fake: Callable[..., Path]
) -> None:
    script = fake(unsupported={"tiny-merged-r4": "too new"})
    code, out, _ = call("bench", family, "--fake", script, "--rounds", 6)
    assert (code, "skipped: too new" in out) == (0, True)
    code, _, _ = call("bench", family / "tiny-merged-r4", "--fake", script)
    assert code == 1


def test_interrupted_exits_with_130_and_keeps_what_it_has(
    call: Wanrt, family: Path, fake: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "out.json"
    script = fake(interrupt_at=100)
    code, out, _ = call("bench", family, "--fake", script, "--rounds", 50, "--json", path)
    assert code == 130
    assert "interrupted: only what was measured until then is shown" in out
    value = json.loads(path.read_text())
    assert value["context"]["interrupted"]
    assert value["results"][0]["forward_s"]["times"]


def test_bench_on_this_machine(call: Wanrt, family: Path) -> None:
    make_engine(family / "tiny-bf16", Tiny(name="tiny-bf16", dtype="bf16"))
    code, out, _ = call("bench", family, "--loads", 2, "--rounds", 3, "--threads", 1, "-v")
    assert code == 0
    assert "skipped: bf16 doesn't run on ONNX Runtime's CPU" in out
    assert "n 12 · min" in out
    assert "random weights" in out


def test_a_broken_off_bench_goes_on(
    call: Wanrt, family: Path, fake: Callable[..., Path], tmp_path: Path
) -> None:
    saved = tmp_path / "bench.json"
    fixed = ("--loads", 3, "--rounds", 2, "--json", saved)
    code, out, err = call("bench", family, "--fake", fake(interrupt_at=150), *fixed)
    assert code == 130
    assert "interrupted" in out
    assert f"go on with: --resume --json {saved}" in err
    part = json.loads(saved.read_text())["results"][0]["forward_s"]
    code, _, _ = call("bench", family, "--fake", fake(), *fixed, "--resume")
    assert code == 0
    whole = json.loads(saved.read_text())["results"][0]["forward_s"]
    assert len(part["times"]) < len(whole["times"]) == 12
    assert whole["loads"] == [0] * 4 + [1] * 4 + [2] * 4
    code, _, err = call("bench", family, "--fake", fake(), *fixed, "--warmup", 2, "--resume")
    assert code == 1
    assert "had another --warmup" in err


def test_resume_without_a_file_begins(
    call: Wanrt, family: Path, fake: Callable[..., Path], tmp_path: Path
) -> None:
    new = ("--resume", "--json", tmp_path / "new.json")
    assert call("bench", family, "--fake", fake(), "--loads", 1, *new)[0] == 0
    code, _, err = call("bench", family, "--fake", fake(), "--resume")
    assert code == 2
    assert "--resume needs the --json FILE" in err


class TestCompare:
    @pytest.fixture
    def earlier(self, call: Wanrt, family: Path, fake: Callable[..., Path], tmp_path: Path) -> Path:
        path = tmp_path / "earlier.json"
        assert call("bench", family, "--fake", fake(), "--loads", 3, "--json", path)[0] == 0
        return path

    def test_what_became_slower_fails(
        self, call: Wanrt, family: Path, fake: Callable[..., Path], earlier: Path
    ) -> None:
        script = fake(forward_s={"tiny-separate-r4": [0.125]})
        common = ("bench", family, "--fake", script, "--loads", 3, "--compare", earlier)
        code, _, err = call(*common, "--fail-above", "2%")
        assert code == 1
        (line,) = (line for line in err.splitlines() if "SLOWER" in line)
        assert line.split() == [
            "separate", "r4", "60.00", "->", "48.00", "tok/s", "to", "full", "-20.00%", "(-20.00%",
            "to", "-20.00%)", "SLOWER",
        ]  # fmt: skip
        assert call(*common, "--fail-above", "21%")[0] == 0
        assert call(*common)[0] == 0

    def test_a_slower_machine_shows_in_full_alone(
        self, call: Wanrt, family: Path, fake: Callable[..., Path], earlier: Path
    ) -> None:
        names = ("full", "merged-r4", "separate-r4", "swappable r2", "swappable r4")
        script = fake(forward_s={f"tiny-{name}": [0.13] for name in names})
        common = ("bench", family, "--fake", script, "--loads", 3, "--compare", earlier)
        code, _, err = call(*common, "--fail-above", "2%")
        assert code == 1
        assert [line.split()[0] for line in err.splitlines() if "SLOWER" in line] == ["full"]

    def test_a_single_load_is_no_proof(
        self, call: Wanrt, family: Path, fake: Callable[..., Path], earlier: Path
    ) -> None:
        script = fake(forward_s={"tiny-separate-r4": [0.125]})
        common = ("bench", family, "--fake", script, "--compare", earlier, "--fail-above", "2%")
        code, _, err = call(*common, "--loads", 1)
        assert code == 0
        assert "one load: no interval" in err

    def test_what_is_gone_fails(
        self, call: Wanrt, family: Path, fake: Callable[..., Path], earlier: Path
    ) -> None:
        shutil.rmtree(family / "tiny-separate-r4")
        common = ("bench", family, "--fake", fake(), "--loads", 3, "--compare", earlier)
        code, _, err = call(*common, "--fail-above", "2%")
        assert code == 1
        assert "separate r4   60.00 tok/s -> gone" in err
        assert call(*common)[0] == 0

    def test_the_results_must_not_replace_it(
        self, call: Wanrt, family: Path, fake: Callable[..., Path], earlier: Path
    ) -> None:
        both = ("--compare", earlier, "--json", earlier)
        assert call("bench", family, "--fake", fake(), *both)[0] == 2

    def test_another_machine_is_refused_unless_forced(
        self, call: Wanrt, family: Path, fake: Callable[..., Path], earlier: Path
    ) -> None:
        script = fake(machine={"onnxruntime": "9.9"})
        common = ("bench", family, "--fake", script, "--loads", 3, "--compare", earlier)
        code, out, err = call(*common)
        assert (code, out) == (1, "")  # before anything ran
        assert "error: the earlier bench ran with another onnxruntime (1.2.3, now 9.9)" in err
        assert call(*common, "--force")[0] == 0

    def test_another_torch_is_refused_where_rivals_ran_with_both(
        self, call: Wanrt, family: Path, fake: Callable[..., Path], tmp_path: Path
    ) -> None:
        saved = tmp_path / "rivals.json"
        rivals = {"rivals": ["eager"]}
        common = ("bench", family, "--loads", 3, "--fake")
        before = (fake(**rivals, machine={"torch": "2.1"}), "--with", "eager", "--json", saved)
        assert call(*common, *before)[0] == 0
        script = fake(**rivals, machine={"torch": "2.2"})
        code, _, err = call(*common, script, "--with", "eager", "--compare", saved)
        assert code == 1
        assert "another torch (2.1, now 2.2)" in err
        assert call(*common, fake(), "--compare", saved)[0] == 0

    def test_a_file_that_cannot_be_read_is_told_before_anything_runs(
        self, call: Wanrt, family: Path, fake: Callable[..., Path], tmp_path: Path
    ) -> None:
        (tmp_path / "x.json").write_text("{")
        code, out, err = call("bench", family, "--fake", fake(), "--compare", tmp_path / "x.json")
        assert (code, out) == (1, "")
        assert "is not JSON, or cut short" in err


@pytest.mark.parametrize("value", ["0.5", "0%", "100%", "half", "-1%"])
def test_percentages_have_their_sign(call: Wanrt, family: Path, value: str) -> None:
    code, _, err = call("bench", family, "--half-width", value)
    assert code == 2
    assert "is no percentage, like 0.5%" in " ".join(err.split())


def test_an_unknown_rival_is_named(call: Wanrt, family: Path) -> None:
    code, _, err = call("bench", family, "--with", "torch-egger")
    assert code == 1
    assert "there is no rival 'torch-egger'" in err
    assert "torch-eager" in err


def test_info(call: Wanrt, family: Path) -> None:
    code, out, _ = call("info", family / "tiny-swappable")
    assert code == 0
    assert "swappable, rank up to 4, on 1 modules" in out
    assert "random weights" in out
    assert "relative L2 3e-07" in out
    assert "1.1 KiB in 1 file of 1.2 KiB, random weights" in out
    assert "adapters/r2.safetensors: rank 2" in out
    assert max(len(line) for line in out.splitlines()[1:]) <= 79


def test_info_of_an_unverified_engine(call: Wanrt, tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny(verified=False, random_weights=False))
    _, out, _ = call("info", folder)
    assert "linked weights weren't read, and may hold NaN" in " ".join(out.split())
    assert "real weights" in out


def test_info_as_json_is_the_manifest(call: Wanrt, family: Path) -> None:
    _, out, _ = call("info", family / "tiny-full", "--json")
    assert json.loads(out)["name"] == "tiny-full"


def test_run_saves_the_outputs(call: Wanrt, family: Path, tmp_path: Path) -> None:
    x = np.ones((6, 16), np.float32)
    save_file({"x": x, "timestep": np.zeros(1, np.float32)}, tmp_path / "in.safetensors")
    folder, saved = family / "tiny-swappable", tmp_path / "out.safetensors"
    adapter = folder / "adapters" / "r2.safetensors"
    code, out, _ = call(
        "run",
        folder,
        "--inputs",
        tmp_path / "in.safetensors",
        "--adapter",
        adapter,
        "--save",
        saved,
    )
    assert (code, out) == (0, "y float32 [6, 16]\n")
    want = expect(Tiny(mode="swappable"), x, adapter_tensors(2))
    np.testing.assert_allclose(load_file(saved)["y"], want, rtol=1e-4, atol=1e-4)


def test_run_with_a_seed_repeats(call: Wanrt, family: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        call("run", family / "tiny-full", "--seed", seed, "--save", tmp_path / name)
    a, b, c = (load_file(tmp_path / name)["y"] for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_run_of_one_workload(call: Wanrt, tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny(workloads={"small": 6, "large": 10}))
    _, out, _ = call("run", folder, "--workload", "large", "--save", tmp_path / "o")
    assert out == "y float32 [10, 16]\n"


def test_a_copied_engine_is_told_from_one_written_over(
    call: Wanrt, family: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(family / "tiny-full", copy, copy_function=shutil.copyfile)
    touch_ns(copy / "weights" / "tiny.safetensors", 1)
    code, _, err = call("run", copy, "--save", tmp_path / "o")
    assert code == 1
    assert "the engine was copied or moved, or somebody wrote over these bytes" in err
    assert f"wanrt verify {copy} --restore-mtime; if they differ, rebuild" in err
    assert call("verify", copy, "--restore-mtime")[0] == 0
    assert call("run", copy, "--save", tmp_path / "o")[0] == 0


def test_verify_right_engines(call: Wanrt, family: Path) -> None:
    code, out, _ = call("verify", family)
    assert code == 0
    assert out.endswith("4 engines ok\n")
    assert "WRONG" not in out


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


WRONG: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "weights changed": ("weights/tiny.safetensors", _flip, "are not the recorded ones"),
    "graph changed": ("model.onnx", _flip, "are not the recorded ones"),
    "adapter changed": ("adapters/r2.safetensors", _flip, "are not the recorded ones"),
    "adapter missing": ("adapters/r2.safetensors", Path.unlink, "is missing"),
    "manifest broken": ("engine.json", lambda p: p.write_text("{"), "is not JSON"),
    "time changed": ("weights/tiny.safetensors", lambda p: touch_ns(p, 1), "its mtime isn't"),
}


@pytest.mark.parametrize("case", WRONG)
def test_verify_finds_what_is_wrong(call: Wanrt, family: Path, case: str) -> None:
    file, change, message = WRONG[case]
    change(family / "tiny-swappable" / file)
    code, out, _ = call("verify", family)
    assert code == 1
    lines = out.splitlines()
    (wrong,) = [i for i, line in enumerate(lines) if line.startswith("WRONG")]
    assert lines[wrong].startswith(f"WRONG {family / 'tiny-swappable'}: 1 of ")
    problem = " ".join(" ".join(lines[wrong + 1 : -1]).split())
    assert file in problem
    assert message in problem
    assert lines[-1] == "1 of 4 engines wrong"
    told = [line for line in lines if line.startswith(" ")]
    assert all(len(line) < 80 or len(line.split()) == 1 for line in told)


def test_verify_restores_times_of_right_bytes_only(call: Wanrt, family: Path) -> None:
    full, merged = (family / name / "weights" / "tiny.safetensors" for name in
                    ("tiny-full", "tiny-merged-r4"))  # fmt: skip
    touch_ns(full, 5)
    _flip(merged)
    code, out, _ = call("verify", family, "--restore-mtime")
    assert code == 1
    assert [line.split()[1] for line in out.splitlines() if "WRONG" in line] == [
        f"{merged.parents[1]}:"
    ]
    assert call("info", family / "tiny-full")[0] == 0
    with wanrt.load_engine(family / "tiny-full"):
        pass
