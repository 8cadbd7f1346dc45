"""Plans by TensorRT-RTX's own builder, which needs no GPU: what they are and what is refused."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import folders
import pytest
from commands import wanexport
from folders import engines, manifests, plan_of, snapshot
from studies import I2V, OTHER_SIZES, SIZE, build

from wanexport.errors import BuildError, ConfigError
from wanexport.model.config import Size
from wanexport.storage.tensor_file import open_safetensors
from wanexport.tensorrt import builder
from wanexport.tensorrt.lora_form import choose_joined
from wanexport.tensorrt.protocol import BuilderJob, Phase
from wanexport.tensorrt.settings import PlanSettings
from wanrt.manifest.read import read_manifest

sources = folders.sources  # a fixture

RTX = PlanSettings("tensorrt-rtx", capabilities=("8.9", "12.0"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo, planned for two GPUs; tests only read it. `test_real_plans` has both dtypes."""
    out = tmp_path_factory.mktemp("plans")
    code, _, said = wanexport(
        "build", "--rank", "8", "--backend", "tensorrt-rtx", "--compute-capability", "89,120",
        "--dtype", "fp16", "--verify", "none", "--out", out,
    )  # fmt: skip
    assert code == 0, said
    return out


class TestRealPlans:
    def test_every_mode(self, demo: Path) -> None:
        found = manifests(demo)
        assert {m.mode for m in found} == set(folders.MODES)
        for manifest in found:
            plan = plan_of(manifest)
            assert manifest.backend == "tensorrt-rtx"
            assert (plan.refit, plan.weights, plan.swap, plan.gpu) == ("baked", {}, None, None)
            assert plan.compute_capabilities == ("8.9", "12.0")
            weights = manifest.weight_bytes
            assert weights < plan.bytes < 1.5 * weights

    def test_the_layers_are_described(self, demo: Path) -> None:
        for manifest in manifests(demo):
            told = json.loads((demo / manifest.name / "layers.json").read_text())
            assert told["network"][f"ATTENTION_INPUT {manifest.dtype}"] == 12
            assert told["engine"] is None  # read back on a GPU alone

    def test_nothing_is_built_twice(self, demo: Path) -> None:
        before = snapshot(demo)
        code, said, _ = wanexport(
            "build", "--rank", "8", "--backend", "tensorrt-rtx", "--compute-capability", "89,120",
            "--dtype", "fp16", "--verify", "none", "--out", demo,
        )  # fmt: skip
        assert code == 0
        assert said.count("up to date") == 4
        assert snapshot(demo) == before

    def test_a_deleted_engine_gets_its_plan_back(self, sources: Path, tmp_path: Path) -> None:
        options: dict[str, Any] = {
            "modes": ("full", "separate"),
            "ranks": (4,),
            "dtype": "fp16",
            "tensorrt": RTX,
        }
        first = build(tmp_path, base=str(sources / "base"), verify=False, **options)
        inode = (first[0].path / "engine.plan").stat().st_ino
        twin = tmp_path / "twin.plan"
        os.link(first[0].path / "engine.plan", twin)  # or the pool would forget it
        for path in first[0].path.rglob("*"):
            path.unlink() if path.is_file() else None
        for path in (first[0].path / "weights", first[0].path):
            path.rmdir()
        again = build(tmp_path, base=str(sources / "base"), verify=False, **options)
        assert [b.target.action for b in again] == ["build", "reuse"]
        assert (again[0].path / "engine.plan").stat().st_ino == inode

    def test_branches_join_their_layers_where_that_moves_fewer_bytes(self, demo: Path) -> None:
        forms = {(m.mode, m.lora_form) for m in manifests(demo)}
        assert forms == {
            ("full", None), ("merged", None), ("separate", "fused"), ("swappable", "fused"),
        }  # fmt: skip

    @pytest.mark.parametrize("form", [None, "branch", "fused"])
    def test_a_form_can_be_forced_and_is_verified(
        self, tmp_path: Path, form: Literal["branch", "fused"] | None
    ) -> None:
        settings = replace(RTX, lora_form=form)
        built = build(
            tmp_path, modes=("separate", "swappable"), ranks=(4,), dtype="bf16", tensorrt=settings
        )
        for engine in built:
            assert engine.verification is not None
            assert engine.verification.error is not None
            # [W, B] in every forward pays where rows are more than width 256: text and image here
            joined = set(engine.target.joined)
            on_tokens = {m for m in joined if m.endswith(("to_q", "to_out.0"))}
            if form is None:
                assert bool(on_tokens) == (engine.target.mode == "separate")
            assert bool(joined) == (form != "branch")
            assert read_manifest(engine.path).lora_form == (form or "fused")
            assert (f"-{form}-tensorrt" in engine.path.name) == (form is not None)

    def test_a_rank_is_filled_up_with_zeros(self, tmp_path: Path) -> None:
        plain, padded = (
            build(
                tmp_path, modes=("separate", "swappable"), ranks=(4,), dtype="fp16",
                tensorrt=replace(RTX, pad_rank=multiple),
            )
            for multiple in (1, 64)
        )  # fmt: skip
        assert "-r4-pad64-tensorrt" in padded[0].path.name
        assert read_manifest(padded[1].path).max_rank == 64
        assert read_manifest(padded[0].path).rank == 4
        errors = [engine.verification.error for engine in (plain[0], padded[0])]  # type: ignore[union-attr]
        assert errors[1] == pytest.approx(errors[0], rel=0.05)
        (weights,) = padded[0].path.glob("weights/adapter*.safetensors")
        found = open_safetensors(weights).tensors
        name = "blocks.0.attn2.to_q.lora_"
        assert [found[name + part].shape[axis] for part, axis in (("A", 0), ("B", 1))] == [64, 64]
        assert not found[name + "A"].read()[4:].any()
        assert not found[name + "B"].read()[:, 4:].any()

    def test_weights_that_may_be_refitted_stay_apart(self) -> None:
        settings = PlanSettings("tensorrt-rtx", refit="all")
        ranks, size = {"blocks.0.attn2.to_q": 4}, Size(width=832, height=480, frames=81)
        shapes = {"blocks.0.attn2.to_q.weight": (256, 256)}
        assert choose_joined(I2V, size.tokens, ranks, "separate", settings, shapes) == ()
        fused = replace(settings, lora_form="fused")
        with pytest.raises(ConfigError, match="--lora-form fused"):
            choose_joined(I2V, size.tokens, ranks, "separate", fused, shapes)

    def test_a_dynamic_engine_has_a_profile_per_workload(self, tmp_path: Path) -> None:
        build(tmp_path, modes=("full",), dtype="bf16", dynamic=True, tensorrt=RTX, verify=False)
        (manifest,) = manifests(tmp_path)
        names = (SIZE.name, *(size.name for size in OTHER_SIZES))
        assert plan_of(manifest).profiles == names
        assert tuple(manifest.workloads) == names

    def test_fp32_attention_is_refused_and_can_be_allowed(self, tmp_path: Path) -> None:
        options: dict[str, Any] = {"modes": ("full",), "dtype": "fp32", "verify": False}
        with pytest.raises(BuildError, match="no fused kernel") as caught:
            build(tmp_path, tensorrt=RTX, **options)
        assert "--allow-unfused" in caught.value.hint
        assert not engines(tmp_path)
        assert not list((tmp_path / ".plans").glob("*.plan"))
        unfused = PlanSettings("tensorrt-rtx", capabilities=("8.9",), allow_unfused=True)
        assert build(tmp_path, tensorrt=unfused, **options)[0].target.action == "build"

    def test_an_engine_that_may_be_unfused_is_verified(self, tmp_path: Path) -> None:
        unfused = PlanSettings("tensorrt-rtx", capabilities=("8.9",), allow_unfused=True)
        made = build(tmp_path, modes=("full",), dtype="fp32", tensorrt=unfused)
        assert made[0].verification is not None
        assert made[0].verification.error is not None

    @pytest.mark.parametrize("limit", [50, 150, 200])
    def test_too_little_memory(self, tmp_path: Path, limit: int) -> None:
        tight = PlanSettings("tensorrt-rtx", capabilities=("8.9",), memory_limit=limit << 20)
        with pytest.raises(BuildError, match=f"its memory of {limit}.0 MiB"):
            build(tmp_path, modes=("full",), dtype="fp16", tensorrt=tight, verify=False)
        assert not engines(tmp_path)

    def test_phases_are_told(self, tmp_path: Path) -> None:
        build(tmp_path, modes=("full",), dtype="fp16", tensorrt=RTX, verify=False)
        (folder,) = engines(tmp_path).values()
        manifest = read_manifest(folder)
        job = BuilderJob(
            backend="tensorrt-rtx",
            model=str(folder / "model.onnx"),
            plan=str(tmp_path / "again.plan"),
            refit="baked",
            capabilities=("8.9",),
            dtypes={s.name: s.dtype for s in (*manifest.forward.inputs, *manifest.forward.outputs)},
            attentions=3 * I2V.num_layers,
        )
        told: list[Phase] = []
        builder.build_plan(job, told.append)
        assert told[0].name == "Building engine"
        assert told[0].parent is None
        open_phases = {phase.name for phase in told} - {p.name for p in told if p.done >= p.steps}
        assert not open_phases


def test_a_plan_that_holds_weights_takes_their_room(tmp_path: Path) -> None:
    code, said, _ = wanexport(
        "build", "--mode", "full", "--backend", "tensorrt-rtx", "--bake", "--dry-run",
        "--out", tmp_path / "e",
    )  # fmt: skip
    assert code == 0
    (written,) = re.findall(r"writes +([0-9.]+) MiB +memory", said)
    assert float(written) > 55
