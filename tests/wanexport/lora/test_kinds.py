"""What is more than A and B in a LoRA file: deltas, biases, convolutions, LoHa, LoKr, DoRA.

Other loaders drop or mis-scale many of them (diffusers 0.42 does). The wanted values are worked out
by hand here; test_algebra.py compares with PEFT's own.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from lorafiles import CROSS, SHAPES, LoraFile, check_gains, make_lora, noise, resolve


def with_diffs(prefix: str = "diffusion_model.") -> LoraFile:
    """Make a LightX2V-like file: down/up beside deltas of norms, biases and modulation."""
    made = make_lora("C-comfy-down-up", CROSS, alpha=4.0)
    changes = {
        "blocks.0.cross_attn.norm_k_img.diff": "blocks.0.attn2.norm_added_k.weight",
        "blocks.0.norm3.diff": "blocks.0.norm2.weight",
        "blocks.0.norm3.diff_b": "blocks.0.norm2.bias",
        "blocks.1.cross_attn.q.diff_b": "blocks.1.attn2.to_q.bias",
        "blocks.0.self_attn.v.diff": "blocks.0.attn1.to_v.weight",
        "blocks.0.diff_m": "blocks.0.scale_shift_table",
        "blocks.1.modulation.diff": "blocks.1.scale_shift_table",
        "head.diff_m": "scale_shift_table",
        "head.head.diff": "proj_out.weight",
        "head.head.diff_b": "proj_out.bias",
        "patch_embedding.diff": "patch_embedding.weight",
        "patch_embedding.diff_b": "patch_embedding.bias",
        "time_projection.1.diff": "condition_embedder.time_proj.weight",
        "img_emb.proj.4.diff_b": "condition_embedder.image_embedder.norm2.bias",
    }
    for key, parameter in changes.items():
        made.tensors[prefix + key] = made.gains[parameter] = noise(*SHAPES[parameter], seed=key)
    return made


def test_diff_keys(tmp_path: Path) -> None:
    made = with_diffs()
    adapter = resolve(made, tmp_path)
    check_gains(adapter, made.gains)
    assert adapter.dialect == "ComfyUI (diffusion_model.) + alpha + diff"


def test_diff_keys_scale_with_the_strength(tmp_path: Path) -> None:
    made = with_diffs()
    half = {name: gain / 2 for name, gain in made.gains.items()}
    check_gains(resolve(made, tmp_path, strength=0.5), half)


@pytest.mark.parametrize(
    "stem", ["transformer.blocks.0.norm2", "diffusion_model.blocks.0.norm3", "blocks.0.norm2"]
)
def test_norms_alone(stem: str, tmp_path: Path) -> None:
    change = noise(128, seed="norm")
    made = LoraFile({f"{stem}.diff": change})
    check_gains(resolve(made, tmp_path), {"blocks.0.norm2.weight": change})


def test_underscored_modulation(tmp_path: Path) -> None:
    table = noise(1, 6, 128, seed="table")
    made = LoraFile({"lora_unet_blocks_1.diff_m": table, "lora_unet_head.diff_m": table[:, :2]})
    made.gains = {"blocks.1.scale_shift_table": table, "scale_shift_table": table[:, :2]}
    check_gains(resolve(made, tmp_path), made.gains)


def test_bias_of_b_has_the_scale_of_b(tmp_path: Path) -> None:
    made = make_lora("A-diffusers", CROSS[:1], rank=4, alpha=8.0)
    bias = noise(128, seed="bias")
    made.tensors[f"transformer.{CROSS[0]}.lora_B.bias"] = bias
    made.gains[f"{CROSS[0]}.bias"] = 2 * bias
    check_gains(resolve(made, tmp_path), made.gains)


@pytest.mark.parametrize("flat", [True, False], ids=["flat", "kernel"])
def test_patch_embedding(flat: bool, tmp_path: Path) -> None:
    a, b = noise(3, 36, 1, 2, 2, seed="a"), noise(128, 3, 1, 1, 1, seed="b")
    stem = "diffusion_model.patch_embedding"
    made = LoraFile(
        {
            f"{stem}.lora_A.weight": a.flatten(1) if flat else a,
            f"{stem}.lora_B.weight": b.flatten(1) if flat else b,
        }
    )
    gain = (b.flatten(1) @ a.flatten(1)).reshape(128, 36, 1, 2, 2)
    adapter = resolve(made, tmp_path)
    check_gains(adapter, {"patch_embedding.weight": gain})
    assert adapter.ranks == {}


def test_loha_of_lycoris(tmp_path: Path) -> None:
    stem = "lycoris_blocks_0_attn2_to_q"
    parts = {
        "hada_w1_a": noise(128, 2, seed="1a"),
        "hada_w1_b": noise(2, 128, seed="1b"),
        "hada_w2_a": noise(128, 2, seed="2a"),
        "hada_w2_b": noise(2, 128, seed="2b"),
    }
    gain = (parts["hada_w1_a"] @ parts["hada_w1_b"]) * (parts["hada_w2_a"] @ parts["hada_w2_b"])
    made = LoraFile({f"{stem}.{key}": value for key, value in parts.items()})
    made.tensors[f"{stem}.alpha"] = torch.tensor(1.0)
    adapter = resolve(made, tmp_path)
    check_gains(adapter, {"blocks.0.attn2.to_q.weight": gain / 2})
    assert adapter.dialect == "LyCORIS (lycoris_) + alpha + LoHa"


@pytest.mark.parametrize("alpha", [None, 6.0, 1e10], ids=["none", "alpha", "huge"])
@pytest.mark.parametrize("form", ["whole", "w2", "both"])
def test_lokr_of_lycoris(form: str, alpha: float | None, tmp_path: Path) -> None:
    stem = "lora_unet_blocks_1_cross_attn_o"
    halves = {
        "lokr_w1": (noise(8, 3, seed="1a"), noise(3, 16, seed="1b")),
        "lokr_w2": (noise(16, 3, seed="2a"), noise(3, 8, seed="2b")),
    }
    split = {"whole": (), "w2": ("lokr_w2",), "both": ("lokr_w1", "lokr_w2")}[form]
    made = LoraFile()
    for name, (a, b) in halves.items():
        if name in split:
            made.tensors |= {f"{stem}.{name}_a": a, f"{stem}.{name}_b": b}
        else:
            made.tensors[f"{stem}.{name}"] = a @ b
    if alpha is not None:
        made.tensors[f"{stem}.alpha"] = torch.tensor(alpha)
    scale = alpha / 3 if alpha is not None and form != "whole" else 1.0
    products = [a @ b for a, b in halves.values()]
    gain = scale * torch.kron(*products)
    adapter = resolve(made, tmp_path)
    check_gains(adapter, {"blocks.1.attn2.to_out.0.weight": gain}, 1e-4 if scale < 1e6 else 1e5)


def test_dora_of_ai_toolkit(tmp_path: Path) -> None:
    module = CROSS[0]
    made = make_lora("B-comfy-peft", [module])
    weight = noise(*SHAPES[f"{module}.weight"], seed="w")
    magnitude = noise(len(weight), seed="m").abs()
    made.tensors["diffusion_model.blocks.0.cross_attn.q.magnitude"] = magnitude
    whole = weight + made.gains[f"{module}.weight"]
    wanted = whole * (magnitude / whole.norm(dim=1))[:, None]
    (delta,) = resolve(made, tmp_path).deltas
    torch.testing.assert_close(delta.merge(weight), wanted)


@pytest.mark.parametrize("axis", [0, 1], ids=["rows", "columns"])
def test_dora_of_kohya(axis: int, tmp_path: Path) -> None:
    made = make_lora("D-musubi", CROSS[:1], rank=4, alpha=2.0)
    magnitude = noise(128, seed="m").abs()
    shape = (1, -1) if axis else (-1, 1)
    made.tensors["lora_unet_blocks_0_cross_attn_q.dora_scale"] = magnitude.reshape(shape)
    weight = noise(128, 128, seed="W")
    name = f"{CROSS[0]}.weight"
    moved = weight + made.gains[name]
    wanted = moved / moved.norm(dim=1 - axis, keepdim=True) * magnitude.reshape(shape)
    (delta,) = resolve(made, tmp_path).deltas
    torch.testing.assert_close(delta.merge(weight), wanted)
