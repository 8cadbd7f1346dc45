"""A plan that isn't what its engine says is refused before the engine exists."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from plantexts import FULL, ROWS, TENSORS, WIDTH, function, gemm, write_plan

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


def test_a_quantised_layer_s_product_is_of_its_scheme(tmp_path: Path) -> None:
    narrow = gemm("blocks.0.ffn.net.2", "x8", "w8", "x")
    tensors = (*TENSORS, ("x8", "fp8_e4m3", (ROWS, WIDTH)), ("w8", "fp8_e4m3", (WIDTH, WIDTH)))
    check = partial(check_kernels, dtype="bf16", attentions=0, allow_unfused=True, scheme="fp8")
    path = write_plan(tmp_path / "a.plan", tensors, [narrow])
    assert check(path, quantized=("blocks.0.ffn.net.2",)) == ""
    with pytest.raises(BuildError, match="in fp8, though the engine is bf16"):
        check(path)
    with pytest.raises(BuildError, match=r"ffn\.net\.0\.proj in an unknown dtype, though it is to"):
        check(path, quantized=("blocks.0.ffn.net.2", "blocks.0.ffn.net.0.proj"))
    wide = gemm("blocks.0.ffn.net.2", "x", "w", "x")
    path = write_plan(tmp_path / "b.plan", TENSORS, [wide])
    with pytest.raises(BuildError, match=r"ffn\.net\.2 in bf16, though it is to be fp8"):
        check(path, quantized=("blocks.0.ffn.net.2",))


def test_the_timestep_s_layers_stay_in_fp32(tmp_path: Path) -> None:
    own = gemm("stem.condition_embedder.time_embedder.linear_1", "x32", "w32", "x32")
    assert check_kernels(plan(tmp_path, *FULL, own), "bf16", 1, allow_unfused=False) == ""


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    path = tmp_path / "engine.plan"
    path.write_bytes(b"another version's")
    assert "isn't a TensorRT-RTX plan" in check_kernels(path, "bf16", 1, allow_unfused=False)
