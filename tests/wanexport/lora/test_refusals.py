"""What can't be applied in full is refused by name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from lorafiles import (
    CROSS,
    SHAPES,
    T2V_ARCH,
    T2V_SHAPES,
    TEXT_CROSS,
    LoraFile,
    make_lora,
    original,
    resolve,
    settings,
)

from wanexport.errors import AdapterError
from wanexport.lora.adapter import resolve_adapter
from wanexport.model.names import module_shapes


def broken(**changes: torch.Tensor | None) -> LoraFile:
    """Make a good file and change it: TENSOR replaces or adds a key, None drops it."""
    made = make_lora("B-comfy-peft", CROSS)
    for key, tensor in changes.items():
        if tensor is None:
            del made.tensors[key]
        else:
            made.tensors[key] = tensor
    return made


def key(suffix: str, module: str = CROSS[0]) -> str:
    return f"diffusion_model.{original(module)}.{suffix}"


def with_metadata(**values: Any) -> LoraFile:
    made = make_lora("A-diffusers", CROSS)
    made.metadata = settings(**values)
    return made


ONE = torch.ones(1)
WIDE = {"diffusion_model.blocks.0.cross_attn.q.lora_A.weight": torch.ones(4, 256)}
REFUSALS: dict[str, tuple[LoraFile, str]] = {
    "unknown-module": (
        broken(**{"diffusion_model.blocks.0.cross_attn.qq.lora_A.weight": ONE}),
        r"1 of 25 keys match no module.*blocks\.0\.cross_attn\.qq.*nearest is blocks\.0\.cross_at",
    ),
    "unknown-module-zero-diff": (
        broken(**{"diffusion_model.blocks.0.norm2.diff": torch.zeros(128)}),
        r"match no module of the model: diffusion_model\.blocks\.0\.norm2\.diff",
    ),
    "norm3-of-diffusers": (
        LoraFile(
            make_lora("A-diffusers", CROSS).tensors
            | {"transformer.blocks.0.norm3.diff": torch.ones(128)}
        ),
        r"match no module of the model: transformer\.blocks\.0\.norm3\.diff",
    ),
    "unknown-underscored": (
        LoraFile({"lora_unet_blocks_0_crossattn_q.lora_down.weight": torch.ones(4, 128)}),
        r"match no module.*nearest is blocks_0_cross_attn_q",
    ),
    "more-blocks": (
        broken(**{"diffusion_model.blocks.39.cross_attn.q.lora_A.weight": torch.ones(4, 128)}),
        r"blocks that the model, of 2 blocks, doesn't have.*at least 40 blocks",
    ),
    "text-encoder": (
        broken(**{"lora_te_text_model_q.lora_down.weight": ONE}),
        r"are for the text encoder",
    ),
    "second-transformer": (
        broken(**{"transformer_2.blocks.0.attn2.to_q.lora_A.weight": ONE}),
        r"Wan2\.2's second transformer",
    ),
    "vace": (
        broken(**{"diffusion_model.vace_blocks.0.self_attn.q.lora_A.weight": ONE}),
        r"VACE",
    ),
    "shape-of-a": (broken(**WIDE), r"lora_A\.weight is \[4, 256\], it should be \[4, 128\]"),
    "shape-of-b": (
        broken(**{key("lora_B.weight"): torch.ones(64, 4)}),
        r"lora_B\.weight is \[64, 4\], it should be \[128, 4\]",
    ),
    "ranks-differ": (
        broken(**{key("lora_B.weight"): torch.ones(128, 8)}),
        r"lora_B\.weight is \[128, 8\], it should be \[128, 4\]",
    ),
    "transposed": (
        broken(**{key("lora_A.weight"): torch.ones(128, 4)}),
        r"is \[128, 4\], it should be \[128, 128\]",
    ),
    "scalar-a": (broken(**{key("lora_A.weight"): torch.tensor(1.0)}), r"rank 0"),
    "zero-rank": (
        broken(**{key("lora_A.weight"): torch.ones(0, 128)}),
        r"lora_A\.weight has rank 0",
    ),
    "a-without-b": (broken(**{key("lora_B.weight"): None}), r"lacks its other half \(B\)"),
    "b-without-a": (broken(**{key("lora_A.weight"): None}), r"lacks its other half \(A\)"),
    "alpha-alone": (
        broken(**{"diffusion_model.blocks.0.self_attn.q.alpha": ONE}),
        r"self_attn\.q\.alpha has no LoRA tensors beside it",
    ),
    "magnitude-alone": (
        broken(**{"diffusion_model.blocks.0.self_attn.q.dora_scale": ONE}),
        r"has no LoRA tensors beside it",
    ),
    "magnitude-shape": (broken(**{key("dora_scale"): torch.ones(64, 1)}), r"is \[64, 1\]"),
    "alpha-nan": (broken(**{key("alpha"): torch.tensor(float("nan"))}), r"alpha is nan"),
    "alpha-zero": (broken(**{key("alpha"): torch.tensor(0.0)}), r"alpha is 0"),
    "alpha-vector": (broken(**{key("alpha"): torch.ones(3)}), r"should be one number"),
    "int-weights": (
        broken(**{key("lora_A.weight"): torch.ones(4, 128, dtype=torch.int32)}),
        r"is I32, which holds no weights",
    ),
    "bool-weights": (
        broken(**{key("lora_A.weight"): torch.ones(4, 128, dtype=torch.bool)}),
        r"is BOOL, which holds no weights",
    ),
    "two-names": (
        broken(**{"transformer.blocks.0.attn2.to_q.lora_A.weight": torch.ones(4, 128)}),
        r"are both for blocks\.0\.attn2\.to_q",
    ),
    "lora-and-loha": (
        broken(**{key("hada_w1_a"): torch.ones(128, 4)}),
        r"has tensors of lora and loha",
    ),
    "loha-incomplete": (
        LoraFile({"diffusion_model.blocks.0.ffn.0.hada_w1_a": torch.ones(64, 4)}),
        r"lacks its other half",
    ),
    "lokr-one-factor": (
        LoraFile({"diffusion_model.blocks.0.ffn.0.lokr_w1": torch.ones(4, 4)}),
        r"needs either w2 or both its halves",
    ),
    "lokr-size": (
        LoraFile(
            {
                "diffusion_model.blocks.0.ffn.0.lokr_w1": torch.ones(4, 4),
                "diffusion_model.blocks.0.ffn.0.lokr_w2": torch.ones(4, 4),
            }
        ),
        r"factors make \[16, 16\].*is \[64, 128\]",
    ),
    "lokr-tucker": (
        LoraFile({"diffusion_model.blocks.0.ffn.0.lokr_t2": torch.ones(4, 4)}),
        r"lokr_t2 is a Tucker core \(LoKr\), not supported",
    ),
    "glora": (
        broken(**{"diffusion_model.blocks.0.ffn.0.a1.weight": torch.ones(4, 4)}),
        r"a1\.weight is GLoRA, not supported",
    ),
    "lora-on-norm": (
        broken(
            **{
                "diffusion_model.blocks.0.norm3.lora_A.weight": torch.ones(4, 128),
                "diffusion_model.blocks.0.norm3.lora_B.weight": torch.ones(128, 4),
            }
        ),
        r"norm2\.weight isn't a matrix",
    ),
    "bias-of-norm-without": (
        broken(**{"diffusion_model.blocks.0.self_attn.norm_q.diff_b": torch.zeros(128)}),
        r"attn1\.norm_q\.bias, which the model doesn't have",
    ),
    "diff-shape": (
        broken(**{"diffusion_model.blocks.0.ffn.0.diff": torch.zeros(128, 64)}),
        r"is \[128, 64\], it should be \[64, 128\]",
    ),
    "modulation-shape": (
        broken(**{"diffusion_model.blocks.0.diff_m": torch.zeros(1, 2, 128)}),
        r"diff_m is \[1, 2, 128\], it should be \[1, 6, 128\]",
    ),
    "whole-parameter": (
        broken(**{"diffusion_model.head.head.weight": torch.ones(64, 128)}),
        r"1 of 25 keys aren't LoRA tensors: diffusion_model\.head\.head\.weight",
    ),
    "checkpoint": (
        LoraFile({name: torch.zeros(shape) for name, shape in list(SHAPES.items())[:5]}),
        r"looks like a checkpoint.*--finetuned",
    ),
    "empty": (LoraFile(metadata={"format": "pt"}), r"holds no tensors"),
    "metadata-rank": (
        with_metadata(r=8, lora_alpha=8),
        r"metadata says rank 8, the tensors have 4",
    ),
    "metadata-dora": (
        with_metadata(r=4, lora_alpha=8, use_dora=True),
        r"metadata says DoRA, but blocks\.\d\.attn2\.\S+ has no magnitude",
    ),
    "metadata-pissa": (
        with_metadata(r=4, init_lora_weights="pissa_niter_4"),
        r"init_lora_weights 'pissa_niter_4'.*path_initial_model",
    ),
    "metadata-oft": (with_metadata(r=4, peft_type="OFT"), r"peft_type"),
    "metadata-variant": (with_metadata(r=4, use_qalora=True), r"use_qalora"),
    "metadata-type": (with_metadata(r="many"), r"lora_adapter_metadata: r: "),
    "metadata-no-alpha": (with_metadata(r=4), r"says no lora_alpha, and there is no alpha tensor"),
    "metadata-nothing": (with_metadata(), r"says neither r nor alpha"),
    "metadata-alpha-zero": (with_metadata(r=4, lora_alpha=0), r"alpha is 0"),
    "metadata-alpha-huge": (with_metadata(r=4, lora_alpha=1e308), r"alpha 1e\+308 makes a scale"),
    "metadata-alpha-nan": (with_metadata(r=4, lora_alpha=float("nan")), r"lora_alpha: "),
    "metadata-alpha-pattern-infinite": (
        with_metadata(r=4, lora_alpha=4, alpha_pattern={"to_q": float("inf")}),
        r"alpha is inf",
    ),
    "metadata-alpha-pattern-zero": (
        with_metadata(r=4, lora_alpha=4, alpha_pattern={"to_q": 0}),
        r"alpha is 0",
    ),
    "metadata-pattern-for-ever": (
        with_metadata(r=4, lora_alpha=4, alpha_pattern={r"(\w|\w\w|\.|\w\.|\.\w|\w\w\w)+[Z-]": 1}),
        r"takes longer than 0\.2 s",
    ),
    "metadata-patterns-many": (
        with_metadata(r=4, lora_alpha=4, rank_pattern={f"a{i}": 4 for i in range(2_049)}),
        r"more than 2,048 patterns",
    ),
    "metadata-size": (with_metadata(r=4, lora_alpha=4, revision="x" * (1 << 20)), r"larger than"),
    "alpha-huge": (broken(**{key("alpha"): torch.tensor(1e38)}), r"alpha 1e\+38 makes a scale"),
    "keys": (
        LoraFile({f"transformer.{i}.lora_A.weight": torch.ones(1) for i in range(65_537)}),
        r"holds 65,537 tensors, at most 65,536",
    ),
    "metadata-pattern": (with_metadata(alpha_pattern={"(": 1}), r"isn't a valid pattern"),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_refuses(case: str, tmp_path: Path) -> None:
    made, message = REFUSALS[case]
    path = made.save(tmp_path / "bad.safetensors")
    with pytest.raises(AdapterError) as raised:
        resolve_adapter(path, SHAPES)
    error = f"{raised.value}; {raised.value.hint}"
    assert str(path) in error
    assert "\n" not in error
    assert re.search(message, error), error


@pytest.mark.parametrize("text", ["{", "[1]", '{"r": 4', "nul"])
def test_refuses_metadata_that_is_no_object(text: str, tmp_path: Path) -> None:
    made = make_lora("A-diffusers", CROSS)
    made.metadata = {"lora_adapter_metadata": text}
    with pytest.raises(AdapterError, match="lora_adapter_metadata is not"):
        resolve(made, tmp_path)


@pytest.mark.parametrize("dialect", ["A-diffusers", "B-comfy-peft", "D-musubi"])
def test_refuses_image_keys_on_a_text_model(dialect: str, tmp_path: Path) -> None:
    path = make_lora(dialect, CROSS).save(tmp_path / "i2v.safetensors")
    with pytest.raises(AdapterError, match="8 of 24 keys are for image conditioning"):
        resolve_adapter(path, T2V_SHAPES)


def test_refuses_another_width_with_both_shapes(tmp_path: Path) -> None:
    wider = module_shapes(T2V_ARCH.model_copy(update={"num_attention_heads": 2}))
    path = make_lora("B-comfy-peft", TEXT_CROSS).save(tmp_path / "small.safetensors")
    with pytest.raises(AdapterError, match=r"is \[4, 128\].*\[256, 256\] \(and 7 more"):
        resolve_adapter(path, wider)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("suffix", ["lora_A.weight", "lora_B.weight"])
def test_refuses_values_that_are_not_finite(suffix: str, value: float, tmp_path: Path) -> None:
    made = make_lora("B-comfy-peft", CROSS)
    made.tensors[key(suffix)][1, 1] = value
    adapter = resolve(made, tmp_path)
    with pytest.raises(AdapterError, match=r"lora\.safetensors: .*aren't finite"):
        [delta.low_rank() for delta in adapter.deltas]


def test_refuses_values_whose_products_overflow(tmp_path: Path) -> None:
    made = make_lora("B-comfy-peft", CROSS)
    made.tensors[key("lora_A.weight")][1, 1] = 3e38
    adapter = resolve(made, tmp_path)
    with pytest.raises(AdapterError, match=r"lora_A\.weight holds values beyond 1\.8e\+19"):
        [delta.low_rank() for delta in adapter.deltas]


@pytest.mark.parametrize("strength", [float("nan"), float("inf"), 1e308, -1e38])
def test_refuses_a_strength_that_is_no_number(strength: float, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="strength"):
        resolve(make_lora("A-diffusers", CROSS), tmp_path, strength=strength)


def test_refuses_files_that_are_no_safetensors(tmp_path: Path) -> None:
    pickle = tmp_path / "lora.pt"
    torch.save({"a": torch.ones(1)}, pickle)
    with pytest.raises(AdapterError, match="pickle"):
        resolve_adapter(pickle, SHAPES)
    renamed = pickle.rename(tmp_path / "renamed.safetensors")
    with pytest.raises(AdapterError, match=r"renamed\.safetensors is a pickle"):
        resolve_adapter(renamed, SHAPES)
    with pytest.raises(AdapterError, match="doesn't exist"):
        resolve_adapter(tmp_path / "absent.safetensors", SHAPES)
