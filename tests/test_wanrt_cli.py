"""The wanrt command: what it starts with, refuses and shows, and one forward by it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from commands import wanrt
from safetensors.numpy import load_file, save_file
from tinyengines import Tiny, adapter_tensors, expect, make_engine

import wanrt as package


def test_public_names() -> None:
    assert dir(package) == package.__all__
    assert len(package.__all__) <= 6
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'x'"):
        package.x  # noqa: B018


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
    "weights of no unit": ["bench", "x", "--weight-streaming", "20"],
    "weights of no number": ["run", "x", "--save", "y", "--weight-streaming", "manyGiB"],
    "endless weights": ["run", "x", "--save", "y", "--weight-streaming", "infGiB"],
    "two results on stdout": ["bench", "x", "--json", "-", "--csv", "-"],
    "run without --save": ["run", "x"],
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_exits_with_2(case: str) -> None:
    code, out, err = wanrt(*USAGE[case])
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
    tmp_path: Path, family: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    argv, message = MISTAKES[case]
    if "CUDA" in case and _has_cuda():
        pytest.skip("this machine has what the case lacks")
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    code, out, err = wanrt(*(arg.format(tmp=empty, e=family) for arg in argv))
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


def test_info(family: Path) -> None:
    code, out, _ = wanrt("info", family / "tiny-swappable")
    assert code == 0
    assert "swappable, rank up to 4, on 1 modules" in out
    assert "random weights" in out
    assert "relative L2 3e-07" in out
    assert "1.1 KiB in 1 file of 1.2 KiB, random weights" in out
    assert "adapters/r2.safetensors: rank 2" in out
    assert max(len(line) for line in out.splitlines()[1:]) <= 79


def test_info_of_an_unverified_engine(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny(verified=False, random_weights=False))
    _, out, _ = wanrt("info", folder)
    assert "linked weights weren't read, and may hold NaN" in " ".join(out.split())
    assert "real weights" in out


def test_info_as_json_is_the_manifest(family: Path) -> None:
    _, out, _ = wanrt("info", family / "tiny-full", "--json")
    assert json.loads(out)["name"] == "tiny-full"


def test_run_saves_the_outputs(family: Path, tmp_path: Path) -> None:
    x = np.ones((6, 16), np.float32)
    save_file({"x": x, "timestep": np.zeros(1, np.float32)}, tmp_path / "in.safetensors")
    folder, saved = family / "tiny-swappable", tmp_path / "out.safetensors"
    adapter = folder / "adapters" / "r2.safetensors"
    code, out, _ = wanrt(
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


def test_run_with_a_seed_repeats(family: Path, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        wanrt("run", family / "tiny-full", "--seed", seed, "--save", tmp_path / name)
    a, b, c = (load_file(tmp_path / name)["y"] for name in "abc")
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_run_of_one_workload(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny(workloads={"small": 6, "large": 10}))
    _, out, _ = wanrt("run", folder, "--workload", "large", "--save", tmp_path / "o")
    assert out == "y float32 [10, 16]\n"
