"""`wanrt verify`: engines that are right, wrong, or only copied."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import wanrt
from tinyengines import read_raw, touch_ns, write_manifest, write_over

import wanrt as package


def test_an_engine_that_was_written_over_is_refused(family: Path, tmp_path: Path) -> None:
    engine = family / "tiny-full"
    write_over(engine / "weights" / "tiny.safetensors")
    code, _, err = wanrt("run", engine, "--save", tmp_path / "o.safetensors")
    assert code == 1
    assert "somebody wrote over them, or all were copied together" in err
    assert f"wanrt verify {engine} --restore-mtime; if they differ, rebuild" in err
    assert wanrt("verify", engine, "--restore-mtime")[0] == 0
    assert wanrt("run", engine, "--save", tmp_path / "o.safetensors")[0] == 0


def test_verify_right_engines(family: Path) -> None:
    code, out, _ = wanrt("verify", family)
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
    "time changed": ("weights/tiny.safetensors", write_over, "its mtime isn't"),
}


@pytest.mark.parametrize("case", WRONG)
def test_verify_finds_what_is_wrong(family: Path, case: str) -> None:
    file, change, message = WRONG[case]
    change(family / "tiny-swappable" / file)
    code, out, _ = wanrt("verify", family)
    assert code == 1
    lines = out.splitlines()
    (wrong,) = [i for i, line in enumerate(lines) if line.startswith("WRONG")]
    assert lines[wrong].startswith(f"WRONG {family / 'tiny-swappable'}: 1 of ")
    told = [line for line in lines if line.startswith("      ")]
    problem = " ".join(" ".join(told).split())
    assert file in problem
    assert message in problem
    assert lines[-1] == "1 of 4 engines wrong"
    assert all(len(line) < 80 or len(line.split()) == 1 for line in told)


def test_verify_restores_times_of_right_bytes_only(family: Path) -> None:
    full, merged = (family / name / "weights" / "tiny.safetensors" for name in
                    ("tiny-full", "tiny-merged-r4"))  # fmt: skip
    touch_ns(full, 5)
    _flip(merged)
    code, out, _ = wanrt("verify", family, "--restore-mtime")
    assert code == 1
    assert [line.split()[1] for line in out.splitlines() if "WRONG" in line] == [
        f"{merged.parents[1]}:"
    ]
    assert wanrt("info", family / "tiny-full")[0] == 0
    with package.load_engine(family / "tiny-full"):
        pass


def add_weights(folder: Path) -> None:
    """Add a second weight file, of another mtime than the recorded one."""
    manifest = read_raw(folder)
    first = manifest["weights"][0]
    shutil.copyfile(folder / first["file"], folder / "weights" / "more.safetensors")
    manifest["weights"].append(first | {"file": "weights/more.safetensors"})
    write_manifest(folder, manifest)


class TestAdvice:
    def test_of_copied_engines_is_given_once(self, family: Path, tmp_path: Path) -> None:
        copy = tmp_path / "a copy"
        shutil.copytree(family, copy)
        add_weights(copy / "tiny-full")
        for file in copy.glob("*/weights/*"):
            write_over(file)
        code, out, _ = wanrt("verify", copy)
        assert code == 1
        assert out.count("weights/tiny.safetensors: its bytes are right, its mtime isn't\n") == 3
        assert out.count("      2 files: their bytes are right, their mtime isn't\n") == 1
        assert out.count("--restore-mtime") == 1
        assert out.splitlines()[-3:] == [
            "where only times differ, the bytes are right; set the recorded ones:",
            f"  wanrt verify '{copy}' --restore-mtime",
            "4 of 4 engines wrong",
        ]
        assert wanrt("verify", copy, "--restore-mtime").out.endswith("\n4 engines ok\n")

    def test_of_damaged_engines_is_what_rebuilds_each(self, family: Path) -> None:
        _flip(family / "tiny-full" / "model.onnx")
        (family / "tiny-swappable" / "engine.json").write_text("{")
        lines = wanrt("verify", family).out.splitlines()
        at = lines.index("rebuild what isn't as recorded, or copy it again:")
        command, unknown, last = lines[at + 1 :]
        assert command == "  wanexport build --config tiny.toml --mode full --force"
        assert unknown.startswith(f"  {family}/tiny-swappable: engine.json, which says how, can't")
        assert last == "2 of 4 engines wrong"

    def test_says_where_a_time_cannot_be_set(
        self, family: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_over(family / "tiny-full" / "weights" / "tiny.safetensors")

        def refuse(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, "Operation not permitted")  # another user's file

        monkeypatch.setattr(os, "utime", refuse)
        code, out, err = wanrt("verify", family, "--restore-mtime")
        assert (code, err) == (1, "")
        told = " ".join(out.split())
        assert "its mtime isn't, and can't be set: Operation not permitted" in told
