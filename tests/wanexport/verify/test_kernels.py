"""A plan that isn't what its engine says is refused before the engine exists."""

from __future__ import annotations

from pathlib import Path

import pytest
from plantexts import FULL, TENSORS, function, gemm, write_plan

from wanexport.errors import BuildError
from wanexport.verify.kernels import check_kernels

IN_FP32 = gemm("blocks.0.ffn.net.2", "x32", "w32", "x32")
SCORES = function("__myl_BmmSoftmax", ["blocks.0.attn1.attention"], ["q", "k"], "z")


def plan(tmp_path: Path, *kernels: str) -> Path:
    return write_plan(tmp_path / "engine.plan", TENSORS, kernels)


def test_a_sound_plan_passes(tmp_path: Path) -> None:
    assert check_kernels(plan(tmp_path, *FULL), "bf16", 1, allow_unfused=False) == ""


def test_an_attention_that_is_not_one_kernel(tmp_path: Path) -> None:
    path = plan(tmp_path, *FULL[:3], SCORES, *FULL[4:])
    with pytest.raises(BuildError, match="fused 0 of 1 attentions") as caught:
        check_kernels(path, "bf16", 1, allow_unfused=False)
    assert "--allow-unfused" in caught.value.hint
    assert check_kernels(path, "bf16", 1, allow_unfused=True) == ""


def test_a_gemm_in_another_precision(tmp_path: Path) -> None:
    said = r"computes blocks\.0\.ffn\.net\.2 in fp32, though the engine is bf16"
    with pytest.raises(BuildError, match=said):
        check_kernels(plan(tmp_path, *FULL, IN_FP32), "bf16", 1, allow_unfused=True)


def test_the_timestep_s_layers_stay_in_fp32(tmp_path: Path) -> None:
    own = gemm("stem.condition_embedder.time_embedder.linear_1", "x32", "w32", "x32")
    assert check_kernels(plan(tmp_path, *FULL, own), "bf16", 1, allow_unfused=False) == ""


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "engine.plan"
    path.write_bytes(b"another version's")
    assert "isn't a TensorRT-RTX plan" in check_kernels(path, "bf16", 1, allow_unfused=False)
