"""Where a plan's weights live, and what swaps in place; built by a fake of TensorRT's builder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import folders
import pytest
from commands import wanexport
from folders import manifests, plan_of
from studies import I2V, build

from wanexport.tensorrt.settings import PlanSettings
from wanrt.manifest.folder import check_files, open_folder
from wanrt.manifest.plan import PlanFile
from wanrt.manifest.read import read_manifest

sources = folders.sources  # a fixture


@pytest.mark.usefixtures("fake_builder")
class TestWhereWeightsLive:
    """With a builder that has a GPU to say."""

    def names(self, plan: PlanFile) -> set[str]:
        return set(plan.weights)

    def test_all_shares_one_plan_between_full_and_merged(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        build(tmp_path, ranks=(8, 32, 128, 256), dtype="fp16", tensorrt=settings, verify=False)
        keys: dict[str, set[str]] = {}
        for manifest in manifests(tmp_path):
            keys.setdefault(manifest.mode, set()).add(plan_of(manifest).key)
        assert keys["full"] == keys["merged"]
        assert [len(keys[mode]) for mode in folders.MODES] == [1, 1, 4, 1]
        assert len(set().union(*keys.values())) == 6
        plans = list((tmp_path / ".plans").glob("*.plan"))
        assert len(plans) == 7  # and one that merges, for the one shape of its matrices
        inodes = {(tmp_path / m.name / "engine.plan").stat().st_ino for m in manifests(tmp_path)}
        assert len(inodes) == 6

    def test_none_is_bound_to_the_very_bytes(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="none")
        options: dict[str, Any] = {"modes": ("full", "merged"), "ranks": (8,), "dtype": "fp16"}
        build(tmp_path, verify=False, tensorrt=settings, **options)
        full, merged = manifests(tmp_path)
        assert plan_of(full).key != plan_of(merged).key
        job = json.loads((tmp_path / full.name / "engine.plan").read_text())
        assert (job["refit"], job["refittable"]) == ("none", [])
        assert plan_of(full).swap is None

    def test_targets_frees_what_the_adapter_changes(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="targets")
        build(tmp_path, ranks=(8, 16), dtype="fp16", tensorrt=settings, verify=False)
        found = {m.name.split("fp16-")[1].split("-tensorrt")[0]: m for m in manifests(tmp_path)}
        free = {
            name: set(json.loads((tmp_path / m.name / "engine.plan").read_text())["refittable"])
            for name, m in found.items()
        }
        adapted = {f"{module}.weight" for module in found["merged-r8"].targets}
        assert free["merged-r8"] == adapted
        assert free["full"] == free["swappable-r16"] == set()
        assert free["separate-r8"] == {
            f"{module}.{half}"
            for module in found["merged-r8"].targets
            for half in ("lora_A", "lora_B")
        }
        assert plan_of(found["merged-r8"]).key == plan_of(found["merged-r16"]).key
        assert plan_of(found["merged-r8"]).key != plan_of(found["full"]).key

    @pytest.mark.parametrize("copy", [False, True], ids=["link", "copy"])
    def test_a_merged_engine_can_swap_in_place(
        self, sources: Path, tmp_path: Path, copy: bool
    ) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        build(
            tmp_path, modes=("merged",), ranks=(4, 8), dtype="fp16", tensorrt=settings,
            verify=False, base=str(sources / "base"), copy=copy,
        )  # fmt: skip
        for manifest in manifests(tmp_path):
            swap = plan_of(manifest).swap
            assert swap is not None
            assert set(swap.base) == {f"{module}.weight" for module in manifest.targets}
            assert {spec.shape for spec in swap.inputs} == {(8, I2V.width), (I2V.width, 8)}
            assert {spec.dtype for spec in swap.inputs} == {"fp32"}
            (merge,) = swap.merges
            assert (merge.shape, merge.max_rank) == ((I2V.width, I2V.width), 8)
            merging = json.loads((tmp_path / manifest.name / merge.file).read_text())
            assert merging["dtypes"] == {
                "weight": "fp16", "merged": "fp16", "lora_A": "fp32", "lora_B": "fp32",
            }  # fmt: skip

    def test_its_pristine_weights_are_the_base(self, sources: Path, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        options: dict[str, Any] = {"dtype": "fp16", "tensorrt": settings, "verify": False}
        build(tmp_path, modes=("full", "merged"), ranks=(4,), base=str(sources / "base"), **options)
        full, merged = manifests(tmp_path)
        swap = plan_of(merged).swap
        assert swap is not None
        for name, part in swap.base.items():
            own = plan_of(full).weights[name]
            assert self.read(tmp_path / merged.name, part) == self.read(tmp_path / full.name, own)
            now = plan_of(merged).weights[name]
            assert self.read(tmp_path / merged.name, now) != self.read(tmp_path / full.name, own)

    @pytest.mark.parametrize("mode", ["merged", "separate"])
    def test_a_detached_engine_s_plan_finds_the_same_bytes(
        self, sources: Path, tmp_path: Path, mode: str
    ) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        options: dict[str, Any] = {"dtype": "fp16", "tensorrt": settings, "verify": False}
        build(tmp_path, modes=(mode,), ranks=(4,), base=str(sources / "base"), **options)
        (engine,) = manifests(tmp_path)
        outcome = wanexport("detach", tmp_path / engine.name, "-o", tmp_path / "own")
        assert outcome.code == 0, outcome.err
        old, new = plan_of(engine), plan_of(read_manifest(tmp_path / "own"))
        assert (new.key, new.sha256) == (old.key, old.sha256)
        pairs = [(old.weights, new.weights)]
        if old.swap is not None and new.swap is not None:
            pairs.append((old.swap.base, new.swap.base))
        assert len(pairs) == (2 if mode == "merged" else 1)
        for was, now in pairs:
            assert was.keys() == now.keys()
            for name, part in was.items():
                held = self.read(tmp_path / engine.name, part)
                assert held == self.read(tmp_path / "own", now[name]), name

    def test_the_plans_of_a_split_engine_part_all_of_it(
        self, sources: Path, tmp_path: Path
    ) -> None:
        """Graphs, weights, the adapter's matrices and what merges them; detached, too."""
        build(
            tmp_path, modes=("merged",), ranks=(4,), targets=("*.attn2.to_k", "*.attn2.to_q"),
            dtype="fp16", tensorrt=PlanSettings("tensorrt-rtx", refit="all"), verify=False,
            base=str(sources / "base"), split=True,
        )  # fmt: skip
        (engine,) = manifests(tmp_path)
        outcome = wanexport("detach", tmp_path / engine.name, "-o", tmp_path / "own")
        assert outcome.code == 0, outcome.err
        for folder in (tmp_path / engine.name, tmp_path / "own"):
            manifest = read_manifest(folder)
            check_files(open_folder(folder))
            read = []
            for name, module in (("context", "to_k"), ("denoise", "to_q")):
                graph = manifest.graphs[name]
                assert graph.plan is not None
                assert graph.plan.swap is not None
                job = json.loads((folder / graph.plan.file).read_text())
                assert Path(job["model"]).name == graph.file == f"{name}.onnx"
                assert job["dtypes"].keys() == {s.name for s in (*graph.inputs, *graph.outputs)}
                assert job["attentions"] == (0 if name == "context" else 3 * I2V.num_layers)
                assert set(job["refittable"]) == graph.plan.weights.keys()
                adapted = {f"blocks.{n}.attn2.{module}" for n in range(I2V.num_layers)}
                assert {spec.module for spec in graph.plan.swap.inputs} == adapted
                assert graph.plan.swap.base.keys() == {f"{one}.weight" for one in adapted}
                (merge,) = graph.plan.swap.merges
                assert (folder / merge.file).is_file()
                read.append({n for n in graph.plan.weights if n.startswith("blocks")})
            assert not read[0] & read[1]
            assert len(manifest.adapter_inputs) == 4 * I2V.num_layers

    @staticmethod
    def read(folder: Path, part: Any) -> bytes:
        with (folder / part.file).open("rb") as file:
            file.seek(part.offset)
            read: bytes = file.read(part.bytes)
            return read

    def test_its_canonical_adapter_is_fp32(self, tmp_path: Path) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        style = folders.write_lora(tmp_path / "style.safetensors")
        made = build(
            tmp_path / "e",
            modes=("merged",),
            ranks=(8,),
            dtype="fp16",
            tensorrt=settings,
            verify=False,
        )
        out = tmp_path / "canonical.safetensors"
        code, said, problem = wanexport("adapter", style, "--for", made[0].path, "-o", out)
        assert (code, problem) == (0, "")
        assert said == f"saved {out} (rank 4)\n"
        from safetensors.numpy import load_file

        assert {t.dtype.name for t in load_file(out).values()} == {"float32"}
