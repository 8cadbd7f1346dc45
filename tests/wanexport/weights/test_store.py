"""Where an engine's bytes lie: shared with the base, pooled or copied, and how many."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import folders
import numpy as np
import pytest
import torch
from commands import wanexport, wanrt, write_config
from folders import MODES, RANK, engines, own_bytes, sample, sha256, snapshot, stored
from safetensors.torch import load_file
from studies import I2V, build, config

from wanexport.build.recipe import Built
from wanexport.errors import BuildError
from wanexport.model.names import computes_in_fp32, module_shapes
from wanexport.storage.links import place_file
from wanrt.manifest.read import read_manifest

sources, study = folders.sources, folders.study  # fixtures


class TestSharing:
    def test_engines_of_one_base_are_its_bytes(self, study: Path, sources: Path) -> None:
        for shard in (sources / "base").glob("*.safetensors"):
            links = list(study.glob(f"tiny-*/weights/base-{shard.name}"))
            assert {link.stat().st_ino for link in links} == {shard.stat().st_ino}
            assert shard.stat().st_nlink >= 1 + len(links)
        assert len(list(study.glob("tiny-*/weights/base-*"))) >= len(MODES)

    @pytest.mark.parametrize("mode", ["full", "separate", "swappable"])
    def test_a_base_costs_no_disk(self, mode: str, study: Path) -> None:
        folder = engines(study)[mode]
        expected = sum(
            path.stat().st_size
            for path in folder.rglob("*")
            if path.is_file() and not path.name.startswith("base-")
        )
        assert own_bytes(folder) == expected
        manifest = read_manifest(folder)
        adapter = sum(w.bytes for w in manifest.weights if w.origin == "adapter")
        adapter += sum(a.bytes for a in manifest.adapters)
        constants = sum(w.bytes for w in manifest.weights if w.origin == "constants")
        graph = manifest.forward.bytes + (folder / "engine.json").stat().st_size
        assert own_bytes(folder) == adapter + constants + graph
        pair = 2 * I2V.width * RANK * 4
        modules = 6 * I2V.num_layers
        assert (adapter > 0) == (mode != "full")
        assert adapter < 1.25 * pair * modules

    def test_a_merged_engine_writes_what_it_changed(self, study: Path) -> None:
        merged = load_file(engines(study)["merged"] / "weights" / "merged.safetensors")
        assert len(merged) == 6 * I2V.num_layers
        assert all("attn2" in name for name in merged)
        assert all(computes_in_fp32(name) is False for name in merged)

    def test_every_tensor_is_there_once(self, study: Path) -> None:
        for folder in engines(study).values():
            assert set(module_shapes(I2V)) <= set(stored(folder))

    def test_the_made_base_is_shared_too(self, tmp_path: Path) -> None:
        build(tmp_path, modes=("full", "separate"), ranks=(RANK,), verify=False)
        inodes = {path.stat().st_ino for path in tmp_path.glob("tiny-*/weights/base-*")}
        made = {path.stat().st_ino for path in (tmp_path / ".made").rglob("*.safetensors")}
        assert inodes <= made


class TestPool:
    def build(self, out: Path, sources: Path, **options: Any) -> list[Built]:
        return build(out, base=str(sources / "original"), verify=False, **options)

    def pooled(self, out: Path) -> list[Path]:
        return sorted((out / ".weights").glob("*.safetensors"))

    def test_a_cast_checkpoint_is_written_once(self, sources: Path, tmp_path: Path) -> None:
        self.build(tmp_path, sources, dtype="bf16", modes=("merged",), ranks=(RANK,))
        (first,) = self.pooled(tmp_path)
        inode = first.stat().st_ino
        self.build(tmp_path, sources, dtype="bf16", ranks=(RANK,))
        (pool,) = self.pooled(tmp_path)
        source = next((sources / "original").glob("*.safetensors"))
        assert pool.name == f"{sha256(source)}-bf16.safetensors"
        assert pool.stat().st_ino == inode
        folders = [path for path in tmp_path.iterdir() if path.name.startswith("tiny")]
        assert len(folders) == 4
        assert pool.stat().st_nlink == 1 + len(folders)
        for folder in folders:
            manifest = read_manifest(folder)
            storages = {w.file: w.storage for w in manifest.weights if w.origin == "base"}
            assert storages[f"weights/base-{source.name}"] == "pool"
            assert (folder / "weights" / f"base-{source.name}").samefile(pool)
        assert wanrt("verify", tmp_path).code == 0

    def test_islands_keep_their_dtype(self, sources: Path, tmp_path: Path) -> None:
        self.build(tmp_path, sources, dtype="bf16", modes=("full",))
        dtypes = {
            name: tensor.dtype for name, tensor in load_file(self.pooled(tmp_path)[0]).items()
        }
        fp32 = {name for name, dtype in dtypes.items() if dtype == torch.float32}
        assert {"time_embedding.0.weight", "blocks.0.modulation", "head.modulation"} <= fp32
        assert {"blocks.0.norm3.weight", "blocks.1.self_attn.norm_q.weight"} <= fp32
        assert dtypes["blocks.0.self_attn.q.weight"] == torch.bfloat16
        assert dtypes["time_projection.1.weight"] == torch.bfloat16

    def test_cast_values_are_rounded_once(self, sources: Path, tmp_path: Path) -> None:
        self.build(tmp_path, sources, dtype="bf16", modes=("full",))
        source = load_file(next((sources / "original").glob("*.safetensors")))
        for name, tensor in load_file(self.pooled(tmp_path)[0]).items():
            assert torch.equal(tensor, source[name].to(tensor.dtype))

    def test_what_no_engine_links_to_is_swept(self, sources: Path, tmp_path: Path) -> None:
        self.build(tmp_path, sources, dtype="bf16", modes=("full", "separate"), ranks=(RANK,))
        shutil.rmtree(engines(tmp_path)["full"])
        self.build(tmp_path, sources, dtype="fp32", modes=("merged",), ranks=(RANK,))
        assert len(self.pooled(tmp_path)) == 1
        shutil.rmtree(engines(tmp_path)["separate"])
        self.build(tmp_path, sources, dtype="fp32", modes=("merged",), ranks=(RANK,))
        assert self.pooled(tmp_path) == []

    def test_what_killed_builds_left_is_swept(self, sources: Path, tmp_path: Path) -> None:
        for folder in (".weights", ".made"):
            (tmp_path / folder).mkdir()
            (tmp_path / folder / ".x.safetensors.1.tmp").write_bytes(b"half")
        self.build(tmp_path, sources, modes=("full",))
        assert list(tmp_path.glob(".*/.*.tmp")) == []

    def test_another_file_system_gets_one_copy(
        self, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def place(source: Path, target: Path, **how: bool) -> str | None:
            near = source.is_relative_to(tmp_path)
            return place_file(source, target, **how) if near else None

        monkeypatch.setattr("wanexport.weights.store.place_file", place)
        self.build(tmp_path, sources, ranks=(RANK,))
        (pool,) = self.pooled(tmp_path)
        source = next((sources / "original").glob("*.safetensors"))
        assert pool.read_bytes() == source.read_bytes()
        assert pool.stat().st_ino != source.stat().st_ino
        assert pool.stat().st_nlink == 1 + len(MODES)
        assert wanrt("verify", tmp_path).code == 0

    def test_a_file_system_without_links_gets_copies(
        self, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("wanexport.weights.store.place_file", lambda *_, **__: None)
        self.build(tmp_path, sources, modes=("full",))
        manifest = read_manifest(engines(tmp_path)["full"])
        assert {w.storage for w in manifest.weights if w.origin == "base"} == {"copy"}
        assert wanrt("verify", tmp_path).code == 0


class TestCopy:
    def test_engines_outlive_their_sources_and_move(self, sources: Path, tmp_path: Path) -> None:
        shutil.copytree(sources / "original", tmp_path / "base")
        out = tmp_path / "out"
        options: dict[str, Any] = {
            "base": str(tmp_path / "base"),
            "ranks": (RANK,),
            "verify": False,
        }
        build(out, copy=True, **options)
        build(tmp_path / "linked", **options)
        shutil.rmtree(tmp_path / "base")
        assert list((out / ".weights").glob("*.safetensors")) == []
        linked = engines(tmp_path / "linked")
        for mode, folder in engines(out).items():
            moved = tmp_path / "moved" / folder.name
            shutil.copytree(folder, moved, copy_function=shutil.copyfile)
            shutil.rmtree(folder)
            manifest = read_manifest(moved)
            assert {w.storage for w in manifest.weights} == {"copy"}
            assert np.array_equal(sample(moved), sample(linked[mode]))
        assert wanrt("verify", tmp_path / "moved").code == 0

    def test_a_copy_holds_only_what_the_engine_reads(self, sources: Path, tmp_path: Path) -> None:
        build(
            tmp_path, dtype="bf16", modes=("merged",), ranks=(RANK,), copy=True, verify=False,
            base=str(sources / "original"),
        )  # fmt: skip
        folder = engines(tmp_path)["merged"]
        files = {p.name: set(load_file(p)) for p in (folder / "weights").iterdir()}
        parameters = files["base.safetensors"] | files["merged.safetensors"]
        assert parameters == set(module_shapes(I2V))
        assert files["base.safetensors"].isdisjoint(files["merged.safetensors"])


class TestDisk:
    def free(self, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
        monkeypatch.setattr(
            "wanexport.storage.disk.shutil.disk_usage",
            lambda _: SimpleNamespace(total=1 << 40, free=count),
        )

    def test_too_small_a_disk_is_refused_before_anything(
        self, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.free(monkeypatch, 1000)
        with pytest.raises(BuildError, match=r"the build writes .* has .* free") as caught:
            build(tmp_path, ranks=(RANK,), base=str(sources / "base"), verify=False)
        assert "--out" in caught.value.hint
        assert engines(tmp_path) == {}

    def test_what_is_pooled_is_counted_once(
        self, sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        parameters = sum(int(np.prod(shape)) for shape in module_shapes(I2V).values())
        adapters = 4 * (64_000 * I2V.num_layers + 600_000) + 4_000_000
        self.free(monkeypatch, 2 * parameters + adapters)
        made = build(
            tmp_path, dtype="bf16", ranks=(RANK,), base=str(sources / "original"), verify=False
        )
        assert sum(b.target.write_bytes for b in made) > 2 * 0.9 * parameters

    def test_the_estimate_is_near(self, sources: Path, tmp_path: Path) -> None:
        for built in build(
            tmp_path, modes=MODES[:3], ranks=(64,), base=str(sources / "base"), verify=False
        ):
            graph = (built.path / "model.onnx").stat().st_size
            rest = sum(
                w.bytes for w in read_manifest(built.path).weights if w.origin == "constants"
            )
            written = own_bytes(built.path) - graph - rest
            overhead = 64_000 * I2V.num_layers + 600_000
            assert written <= 1.05 * built.target.write_bytes
            assert built.target.write_bytes - overhead <= 1.05 * written


class TestDryRun:
    def run(self, sources: Path, out: Path, *flags: object, code: int = 0) -> list[str]:
        path = write_config(sources / "tiny.toml", config())
        outcome = wanexport("build", "--config", path, "--out", out, "--dry-run", *flags)
        assert outcome.code == code, outcome.err
        return outcome.out.splitlines()

    def test_writes_nothing(self, sources: Path, tmp_path: Path) -> None:
        out = tmp_path / "engines"
        lines = self.run(sources, out, "--rank", RANK, "--base", "random")
        assert not out.exists()
        assert lines[0] == f"{out}/tiny-96x64x5-fp32-*"
        assert lines[1] == "  make 9.0 MiB of random weights first"
        assert [line.split()[:2] for line in lines[2:-1]] == [
            ["build", "full"],
            ["build", "merged-r4"],
            ["build", "separate-r4"],
            ["build", "swappable-r4"],
        ]
        assert all(line.endswith("  new") for line in lines[2:-1])
        assert lines[-1].startswith("writes ")

    def test_counts_all_that_a_build_writes(self, sources: Path, tmp_path: Path) -> None:
        flags = ("--rank", 64, "--mode", "separate", "--verify", "none")
        lines = self.run(sources, tmp_path / "dry", "--base", sources / "base", *flags)
        assert lines[1].startswith("  make ")
        build(
            tmp_path / "real", modes=("separate",), ranks=(64,), base=str(sources / "base"),
            verify=False,
        )  # fmt: skip
        files = [path for path in (tmp_path / "real").rglob("*") if path.is_file()]
        written = sum(path.stat().st_size for path in files if path.stat().st_nlink == 1)
        assert 0.95 < float(lines[-1].split()[1]) * 2**20 / written < 1.1

    def test_memory_is_that_of_the_largest_work(self, sources: Path, tmp_path: Path) -> None:
        def memory(*flags: object) -> str:
            flags = (*flags, "--verify", "none", "--rank", RANK, "--mode", "merged")
            line = self.run(sources, tmp_path, *flags)[-2]
            return line.split("memory")[1].strip().split("  ")[0]

        linked = ("--base", sources / "base")
        assert memory(*linked) == "450.0 MiB"  # the trace; what is merged or cast goes by in blocks
        assert memory(*linked, "--dtype", "bf16") == "450.0 MiB"
        largest = 6 * I2V.width * I2V.width  # time_proj
        assert memory("--base", "random") == f"{450 + 4 * largest / 2**20:.1f} MiB"
        build(tmp_path, modes=("merged",), ranks=(RANK,), base=str(sources / "base"), verify=False)
        assert memory(*linked) == "0 B"

    def test_says_why_each_engine_is_or_isnt_reused(self, sources: Path, tmp_path: Path) -> None:
        base = ("--base", sources / "base", "--verify", "none")
        build(tmp_path, modes=("full",), base=str(sources / "base"), verify=False)
        build(tmp_path, modes=("merged",), base=str(sources / "base"), ranks=(RANK,), verify=False)
        before = snapshot(tmp_path)
        _, reuse, again, new, total = self.run(
            sources, tmp_path, *base, "--weights", "link", "--rank", RANK,
            "--mode", "full", "--mode", "merged", "--mode", "separate",
        )  # fmt: skip
        assert reuse.split()[0] == "reuse"
        assert "writes        0 B" in reuse
        assert reuse.endswith("up to date")
        assert again.split()[0] == "reuse"
        assert new.split()[0] == "build"
        copied = (*base, "--weights", "copy", "--mode", "full")
        lines = self.run(sources, tmp_path, *copied, code=1)
        assert lines[1].split()[0] == "conflict"
        assert lines[1].endswith("weights was link, is copy")
        lines = self.run(sources, tmp_path, *copied, "--force")
        assert lines[1].split()[0] == "replace"
        assert snapshot(tmp_path) == before
        assert total.startswith("writes ")
