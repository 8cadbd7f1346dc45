"""The wanrt command: what it starts with, refuses and shows, and one forward by it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import wanrt
from safetensors.numpy import load_file, save_file
from tinyengines import LORA_B, Tiny, adapter_tensors, expect, make_engine, write_adapter

import wanrt as package
from wanrt.cli.main import app


def test_public_names() -> None:
    assert dir(package) == package.__all__
    assert len(package.__all__) <= 6
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'x'"):
        package.x  # noqa: B018


def test_a_command_is_in_the_file_of_its_name() -> None:
    found = {command.callback for command in app.registered_commands}
    assert {one.__module__ for one in found if one} == {
        f"wanrt.cli.{one.__name__}" for one in found if one
    }
    assert len(found) == 7


@pytest.mark.system
def test_help_starts_fast_and_bare() -> None:
    code = (
        "import sys\n"
        "from wanrt.cli.main import main\n"
        "try:\n    main(['--help'])\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "heavy = {'torch', 'diffusers', 'wanexport', 'onnxruntime', 'scipy', 'numpy', 'onnx',\n"
        "         'pydantic', 'rich', 'safetensors', 'psutil', 'matplotlib',\n"
        "         'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


@pytest.mark.system
def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from contextlib import suppress; from wanrt.cli.main import main\n"
        "with suppress(SystemExit): main(['--help'])\n"
        "print(sorted({'numpy', 'onnxruntime', 'pydantic', 'scipy', 'torch'} & set(sys.modules)))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.splitlines()[-1] == "[]"


@pytest.mark.system
def test_running_imports_neither_torch_nor_wanexport(family: Path) -> None:
    code = (
        "import sys, wanrt\n"
        f"with wanrt.load_engine({str(family / 'tiny-full')!r}): pass\n"
        "import wanrt.bench.run, wanrt.cli.main, wanrt.results.json, wanrt.report.table\n"
        "import wanrt.report.csv, wanrt.report.markdown, wanrt.cli.verify, wanrt.cli.info\n"
        "print(sorted({'torch', 'diffusers', 'wanexport', 'scipy'} & set(sys.modules)))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


SAVE = ("--save", "{tmp}/o.safetensors")

USAGE: dict[str, list[str]] = {
    "no such command": ["measure"],
    "unknown flag": ["bench", "x", "--colour"],
    "unknown device": ["bench", "x", "--device", "tpu"],
    "no threads": ["bench", "x", "--threads", "0"],
    "negative warm-up": ["bench", "x", "--warmup", "-1"],
    "budget as text": ["bench", "x", "--time-budget", "long"],
    "weights of no unit": ["bench", "x", "--weight-streaming", "20"],
    "weights of no number": ["run", "x", *SAVE, "--weight-streaming", "manyGiB"],
    "endless weights": ["run", "x", *SAVE, "--weight-streaming", "infGiB"],
    "two results on stdout": ["bench", "x", "--json", "-", "--csv", "-"],
    "two results in one file": ["bench", "x", "--json", "y", "--csv", "./y"],
    "run without --save": ["run", "x"],
    "outputs of another kind": ["run", "x", "--save", "y.npz"],
    "outputs of no kind": ["run", "x", "--save", "y"],
    "outputs over the inputs": ["run", "x", *SAVE, "--inputs", SAVE[1]],
    "outputs over the adapter": ["run", "x", *SAVE, "--adapter", SAVE[1]],
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_exits_with_2(case: str) -> None:
    code, out, err = wanrt(*USAGE[case])
    assert code == 2
    assert not out
    assert "Traceback" not in err


MISTAKES: dict[str, tuple[list[str], str]] = {
    "bench without engines/": (["bench"], "engines isn't a folder"),
    "verify without engines/": (["verify"], "engines isn't a folder"),
    "bench of nothing": (["bench", "{tmp}/none"], "isn't a folder"),
    "bench of an empty folder": (["bench", "{tmp}"], "holds no engine"),
    "unknown workload": (["bench", "{e}", "--workload", "x"], "no engine has the workload 'x'"),
    "results to nowhere": (["bench", "{e}", "--json", "{tmp}/no/x.json"], "can't be written"),
    "info of nothing": (["info", "{tmp}"], "is not an engine folder"),
    "verify nothing": (["verify", "{tmp}/none"], "isn't a folder"),
    "run without engine": (["run", "{tmp}", *SAVE], "is not an engine folder"),
    "run on CUDA": (["run", "{e}/tiny-full", *SAVE, "--device", "cuda"], "CUDA"),
    "run to nowhere": (
        ["run", "{e}/tiny-full", "--save", "{tmp}/no/o.safetensors"], "can't be written"),
    "run with no such inputs": (
        ["run", "{e}/tiny-full", *SAVE, "--inputs", "{tmp}/i"], "can't be read"),
    "run with other inputs": (
        ["run", "{e}/tiny-full", *SAVE, "--inputs",
         "{e}/tiny-full/weights/tiny.safetensors"], "no input"),
    "adapter for a fixed engine": (
        ["run", "{e}/tiny-full", *SAVE, "--adapter", "{tmp}/a"], "is fixed"),
    "no such adapter": (
        ["run", "{e}/tiny-swappable", *SAVE, "--adapter", "{tmp}/a"], "can't be"),
    "no such workload": (
        ["run", "{e}/tiny-full", *SAVE, "--workload", "x"], "no workload 'x'"),
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


@pytest.mark.parametrize(
    ("x", "name", "message"),
    [
        (np.nan, "x", "input x holds values that aren't finite"),
        (np.inf, "x", "input x holds values that aren't finite"),
        (3e38, "x", "output y isn't finite, so nothing is saved"),
        (1.0, "self", "there is no input self"),
    ],
)
def test_run_refuses_what_comes_to_no_number(
    family: Path, tmp_path: Path, x: float, name: str, message: str
) -> None:
    given, saved = tmp_path / "in.safetensors", tmp_path / "out.safetensors"
    values = {name: np.full((6, 16), x, np.float32), "timestep": np.zeros(1, np.float32)}
    save_file(values, given)
    found = wanrt("run", family / "tiny-full", "--inputs", given, "--save", saved)
    assert found.code == 1
    assert message in found.err
    assert not saved.exists()


@pytest.mark.parametrize("value", [np.nan, -np.inf, 3e38])
def test_run_refuses_an_adapter_that_overflows(family: Path, tmp_path: Path, value: float) -> None:
    tensors = adapter_tensors(2)
    tensors[LORA_B][0, 0] = value
    adapter = write_adapter(tmp_path / "a.safetensors", tensors)
    saved = tmp_path / "out.safetensors"
    found = wanrt("run", family / "tiny-swappable", "--adapter", adapter, "--save", saved)
    assert found.code == 1
    assert f"holds values in {LORA_B} that aren't finite" in found.err


class TestSave:
    def test_into_no_folder_is_found_before_anything_is_loaded(
        self, family: Path, tmp_path: Path
    ) -> None:
        (family / "tiny-full" / "model.onnx").write_text("this would be found next")
        missing = tmp_path / "my outputs"
        found = wanrt("run", family / "tiny-full", "--save", missing / "out.safetensors")
        assert (found.code, found.out) == (1, "")
        assert found.err.splitlines() == [
            f"error: {missing}/out.safetensors can't be written: {missing} isn't a folder",
            f"hint: mkdir -p '{missing}'",
        ]

    def test_over_a_folder(self, family: Path, tmp_path: Path) -> None:
        (tmp_path / "out.safetensors").mkdir()
        found = wanrt("run", family / "tiny-full", "--save", tmp_path / "out.safetensors")
        assert found.code == 1
        assert "out.safetensors can't be written: it is a folder" in found.err

    def test_under_another_suffix_names_the_right_one(self, family: Path, tmp_path: Path) -> None:
        found = wanrt("run", family / "tiny-full", "--save", tmp_path / "out.npz")
        assert found.code == 2
        assert "--save writes safetensors: name it out.safetensors" in " ".join(found.err.split())
        assert not (tmp_path / "out.npz").exists()


def test_run_with_a_seed_repeats(family: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{name}.safetensors" for name in "abc"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        wanrt("run", family / "tiny-full", "--seed", seed, "--save", path)
    a, b, c = (load_file(path)["y"] for path in paths)
    np.testing.assert_array_equal(a, b)
    assert (a != c).any()


def test_run_of_one_workload(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny(workloads={"small": 6, "large": 10}))
    _, out, _ = wanrt("run", folder, "--workload", "large", "--save", tmp_path / "o.safetensors")
    assert out == "y float32 [10, 16]\n"


def test_force_replaces_outputs_that_another_program_wrote(family: Path, tmp_path: Path) -> None:
    there = tmp_path / "o.safetensors"
    there.write_bytes(b"a shard of somebody's")
    command = ("run", family / "tiny-full", "--save", there)
    refused = wanrt(*command)
    assert refused.code == 1
    assert "replace it with --force" in refused.err
    assert there.read_bytes() == b"a shard of somebody's"
    assert wanrt(*command, "--force").code == 0
    assert set(load_file(there)) == {"y"}


@pytest.mark.parametrize(
    ("raised", "code", "said"),
    [
        (MemoryError(), 1, "error: this machine has too little memory for that\n"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_what_ends_a_command_early_is_no_traceback(
    raised: BaseException, code: int, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def end(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr("wanrt.cli.main.app", end)
    assert wanrt("info", "x") == (code, "", said)
