"""Engines that no longer are what they were made from: told by a bench, with what remakes them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import folders
import numpy as np
import pytest
from commands import wanexport, wanrt
from folders import RANK, write_lora
from safetensors.numpy import load_file, save_file
from studies import I2V, SIZE, build
from tinyengines import Tiny, make_engine, make_family, read_raw, touch_ns, write_manifest

from wanexport.build.request import LoraArgument
from wanexport.tensorrt.settings import PlanSettings
from wanrt.bench.stale import find_stale, rebuild_command
from wanrt.manifest.read import read_manifest

sources = folders.sources  # fixture


PLANS = (
    PlanSettings("tensorrt-rtx", refit="baked", capabilities=("8.9", "12.0")),
    PlanSettings("tensorrt", refit="targets", optimization_level=0, workspace=4 << 30),
    PlanSettings(
        "tensorrt", refit="all", aux_streams=2, hardware_compatibility="ampere+",
        version_compatible=True, weight_streaming=True, allow_unfused=True,
    ),
)  # fmt: skip


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
        touch_ns(root / "tiny-separate-r4" / "weights" / "tiny.safetensors", 1)
        found = wanrt("bench", root, "--loads", 1, "--rounds", 1, "--no-probe", "--threads", 1)
        assert found.code == 1
        assert "failed: " in found.out
        assert "the engine was copied or moved" in " ".join(found.out.split())
        told = " ".join(found.err.split())
        assert f"warning[stale]: {root}/tiny-separate-r4: weights/tiny.safetensors, which" in told
        assert (
            f"     wanrt verify {root}/tiny-separate-r4 --restore-mtime" in found.err.splitlines()
        )
        assert command_of(found.err).endswith(f"--mode separate --base base --out {root} --force")

    def test_a_file_of_another_size(self, tmp_path: Path) -> None:
        folder = make_engine(tmp_path / "e", Tiny())
        with (folder / "weights" / "tiny.safetensors").open("ab") as file:
            file.write(b"more")
        advice = find_stale(folder)
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

    def test_missing_and_unreadable_engines_are_told_otherwise(self, tmp_path: Path) -> None:
        folder = make_engine(tmp_path / "e", Tiny())
        (folder / "weights" / "tiny.safetensors").unlink()
        assert find_stale(folder) is None
        (folder / "engine.json").write_text("{")
        assert find_stale(folder) is None


class TestRebuild:
    """The command comes to the very engine that is there: a dry run of it reuses that."""

    CASES: ClassVar[dict[str, dict[str, Any]]] = {
        "full": {"modes": ("full",)},
        "full of a fine-tune alone": {"modes": ("full",), "finetuned": "{s}/finetuned"},
        "made base, ranks, max_rank": {"modes": ("swappable",), "ranks": (2, 4), "max_rank": 8},
        "merged, from a file": {"modes": ("merged",), "loras": ("{s}/style.safetensors", 0.3)},
        "separate, a folder of shards": {"modes": ("separate",), "ranks": (RANK,),
                                         "base": "{s}/base"},
        "dynamic, copied, half": {"modes": ("full",), "dynamic": True, "copy": True,
                                  "dtype": "fp16"},
        "another size": {"modes": ("full",), "size": SIZE.model_copy(update={"batch": 2})},
    }  # fmt: skip

    @pytest.mark.parametrize("case", CASES)
    def test_is_exact(self, sources: Path, tmp_path: Path, case: str) -> None:
        options = dict(self.CASES[case])
        for key in ("base", "finetuned"):
            if key in options:
                options[key] = options[key].format(s=sources)
        if "loras" in options:
            path, strength = options["loras"]
            options["loras"] = (LoraArgument(path.format(s=sources), strength),)
        (built,) = build(tmp_path / "engines", verify=False, **options)
        self.check(built.path)

    def test_is_exact_where_a_part_was_merged_into_the_base(self, tmp_path: Path) -> None:
        path = write_lora(tmp_path / "mixed.safetensors")
        tensors = load_file(path)
        tensors["transformer.blocks.1.attn2.to_q.diff_b"] = np.ones(I2V.width, np.float32)
        save_file(tensors, path)
        (built,) = build(
            tmp_path / "engines", modes=("separate",), loras=(LoraArgument(str(path)),),
            merge_rest=True, verify=False,
        )  # fmt: skip
        self.check(built.path)

    def check(self, folder: Path) -> None:
        command = shlex.split(rebuild_command(folder, read_manifest(folder)))
        assert command[:2] + command[-1:] == ["wanexport", "build", "--force"]
        found = wanexport(*command[1:-1], "--dry-run")
        assert found.code == 0, found.err
        (line,) = (line for line in found.out.splitlines() if "memory" in line)
        assert line.split()[0] == "reuse", line

    def test_names_a_repository_of_the_hub_s_cache(self, tmp_path: Path) -> None:
        folder = make_engine(tmp_path / "e", Tiny())
        blob = "/home/me/hub/models--Wan-AI--Wan2.1-I2V-14B-480P-Diffusers/blobs/0a1b"
        manifest = read_raw(folder)
        manifest["sources"] = [{"path": blob, "sha256": "0" * 64}]
        manifest["full_finetune"] = False
        write_manifest(folder, manifest)
        command = rebuild_command(folder, read_manifest(folder))
        assert " --base Wan-AI/Wan2.1-I2V-14B-480P-Diffusers " in command

    @pytest.mark.parametrize("settings", PLANS)
    def test_names_what_shaped_a_plan(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: PlanSettings
    ) -> None:
        (built,) = build(tmp_path / "engines", modes=("full",), verify=False)
        made = asdict(replace(settings, toolchain=None)) | {"control": settings.control}
        was = read_manifest(built.path)
        inputs = was.inputs | {"backend": json.dumps(made)}
        update = {"backend": settings.backend, "inputs": inputs}
        command = shlex.split(rebuild_command(built.path, was.model_copy(update=update)))
        asked: list[Any] = []
        monkeypatch.setattr(
            "wanexport.build.recipe.build_engines", lambda r, _: asked.append(r) or []
        )
        found = wanexport(*command[1:])
        assert found.code == 0, found.err
        assert asked[0].plans == settings

    def test_remakes_a_stale_engine(self, sources: Path, tmp_path: Path) -> None:
        lora = write_lora(tmp_path / "style.safetensors")
        (built,) = build(
            tmp_path / "engines", modes=("merged",), base=str(sources / "base"),
            loras=(LoraArgument(str(lora)),), verify=False,
        )  # fmt: skip
        before = read_manifest(built.path)
        shutil.copy(write_lora(tmp_path / "other.safetensors", seed=1), lora)
        advice = find_stale(built.path)
        assert advice is not None
        assert wanexport(*shlex.split(command_of(advice.hint))[1:]).code == 0
        assert find_stale(built.path) is None
        assert read_manifest(built.path).inputs["adapter"] != before.inputs["adapter"]
