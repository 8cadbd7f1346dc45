"""Engines that no longer are what they were made from: told by a bench, with what remakes them."""

from __future__ import annotations

import os
import shlex
import shutil
from pathlib import Path
from typing import ClassVar

import folders
import pytest
from commands import wanexport, wanrt, write_config
from folders import RANK, write_lora
from studies import OTHER_SIZES, config
from tinyengines import (
    Tiny,
    make_engine,
    make_family,
    read_raw,
    touch_ns,
    write_manifest,
    write_over,
)

from wanrt.bench.stale import find_stale
from wanrt.manifest.folder import open_folder
from wanrt.manifest.read import read_manifest

sources = folders.sources  # fixture


def command_of(err: str) -> str:
    """Return the command that a warning ends with."""
    (command,) = (line.strip() for line in err.splitlines() if "wanexport build" in line)
    return command


class TestBench:
    def test_written_over_weights_are_a_warning_of_their_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        root = make_family(Path("engines"), full_finetune=False)
        write_over(root / "tiny-separate-r4" / "weights" / "tiny.safetensors")
        found = wanrt("bench", root, "--loads", 1, "--rounds", 1, "--no-probe", "--threads", 1)
        assert found.code == 1
        assert "failed: " in found.out
        assert "somebody wrote over them" in " ".join(found.out.split())
        told = " ".join(found.err.split())
        assert f"warning[stale]: {root}/tiny-separate-r4: weights/tiny.safetensors, which" in told
        assert (
            f"     wanrt verify {root}/tiny-separate-r4 --restore-mtime" in found.err.splitlines()
        )
        command = "wanexport build --config tiny.toml --mode separate --force"
        assert command_of(found.err) == command

    def test_a_file_of_another_size(self, tmp_path: Path) -> None:
        folder = make_engine(tmp_path / "e", Tiny())
        with (folder / "weights" / "tiny.safetensors").open("ab") as file:
            file.write(b"more")
        advice = find_stale(open_folder(folder))
        assert advice is not None
        assert advice.text.endswith("weights/tiny.safetensors has 1,228 bytes, not 1,224")

    @pytest.mark.usefixtures("scripted")
    def test_a_source_written_later_is_told_and_the_engine_runs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        root = make_family(Path("engines"))
        source = Path("base")
        source.write_bytes(b"weights")
        os.utime(source, ns=(0, (root / "tiny-full" / "engine.json").stat().st_mtime_ns - 1))
        common = ("bench", root / "tiny-full", "--loads", 3)
        assert "stale" not in wanrt(*common).err
        touch_ns(source, 2)
        found = wanrt(*common)
        assert found.code == 0
        assert "warning[stale]: engines/tiny-full: base was written after the" in found.err

    def test_a_missing_file_is_told_otherwise(self, tmp_path: Path) -> None:
        folder = make_engine(tmp_path / "e", Tiny())
        (folder / "weights" / "tiny.safetensors").unlink()
        assert find_stale(open_folder(folder)) is None


class TestRebuild:
    """The command recorded is the one given, and comes to the very engine that is there."""

    CASES: ClassVar[dict[str, list[str]]] = {
        "full": ["--mode", "full"],
        "full of a fine-tune alone": ["--mode", "full", "--finetuned", "{s}/finetuned"],
        "made base, ranks, max_rank": [
            "--mode", "swappable", "--rank", "2", "--rank", "4", "--max-rank=8"],
        "merged, from a file": ["--mode", "merged", "--lora", "{s}/style.safetensors:0.3"],
        "separate, a folder of shards": [
            "--mode", "separate", "--rank", str(RANK), "--base", "{s}/base"],
        "dynamic, copied, half": [
            "--mode", "full", "--dynamic", "--weights", "copy", "--dtype", "fp16"],
        "another size, forced": ["--mode", "full", "--batch", "2", "--force"],
    }  # fmt: skip

    @pytest.fixture(autouse=True)
    def _here(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        tiny = config().model_copy(update={"dynamic_sizes": OTHER_SIZES})
        write_config(tmp_path / "tiny.toml", tiny)
        monkeypatch.chdir(tmp_path)

    @pytest.mark.parametrize("case", CASES)
    def test_is_exact(self, sources: Path, case: str) -> None:
        argv = ["build", "--config", "tiny.toml", "--verify", "none"]
        argv += [part.format(s=sources) for part in self.CASES[case]]
        if "--base" not in argv and "--finetuned" not in argv:
            argv += ["--base", "random"]
        folder = self.build(*argv)
        assert list(read_manifest(folder).command) == argv
        self.check(folder)

    def test_names_paths_from_where_it_ran(self, tmp_path: Path) -> None:
        lora = write_lora(tmp_path / "style.safetensors")
        folder = self.build(
            "build", f"--config={tmp_path}/tiny.toml", "--base", "random", "--verify", "none",
            "--mode", "merged", "--lora", f"{lora}:0.5",
        )  # fmt: skip
        assert read_manifest(folder).command[1] == "--config=tiny.toml"
        assert read_manifest(folder).command[-1] == "style.safetensors:0.5"
        self.check(folder)

    def test_is_no_part_of_identity(self) -> None:
        argv = ["build", "--config", "tiny.toml", "--base", "random", "--verify", "none"]
        folder = self.build(*argv, "--mode", "full")
        found = wanexport(*argv, "--mode", "full", "--mode", "merged", "--rank", 2, "--quiet")
        assert found.code == 0, found.err
        assert read_manifest(folder).command[-2:] == ("--mode", "full")

    def build(self, *argv: str) -> Path:
        found = wanexport(*argv)
        assert found.code == 0, found.err
        (file,) = Path("engines").glob("[!.]*/engine.json")
        return file.parent

    def check(self, folder: Path) -> None:
        command = shlex.split(read_manifest(folder).rebuild_command)
        assert command[:2] == ["wanexport", "build"]
        assert command.count("--force") == 1
        again = [part for part in command[1:] if part != "--force"]
        found = wanexport(*again, "--dry-run")
        assert found.code == 0, found.err
        (line,) = (line for line in found.out.splitlines() if "memory" in line)
        assert line.split()[0] == "reuse", line

    def test_of_an_engine_made_without_a_command(self, tmp_path: Path) -> None:
        folder = make_engine(tmp_path / "e", Tiny())
        write_manifest(folder, read_raw(folder) | {"command": []})
        assert "a program made it" in read_manifest(folder).rebuild_command

    def test_remakes_a_stale_engine(self, sources: Path, tmp_path: Path) -> None:
        lora = write_lora(tmp_path / "style.safetensors")
        folder = self.build(
            "build", "--config", "tiny.toml", "--base", str(sources / "base"), "--mode", "merged",
            "--lora", str(lora), "--verify", "none",
        )  # fmt: skip
        before = read_manifest(folder)
        shutil.copy(write_lora(tmp_path / "other.safetensors", seed=1), lora)
        advice = find_stale(open_folder(folder))
        assert advice is not None
        assert wanexport(*shlex.split(command_of(advice.hint))[1:]).code == 0
        assert find_stale(open_folder(folder)) is None
        assert read_manifest(folder).inputs["adapter"] != before.inputs["adapter"]
