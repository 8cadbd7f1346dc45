"""Every dialect of LoRA file comes to the same change of the weights, or to a refusal by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers.loaders import WanLoraLoaderMixin
from lorafiles import (
    BLOCK_LINEARS,
    CROSS,
    DIALECTS,
    IMAGE,
    LINEARS,
    SHAPES,
    T2V_ARCH,
    T2V_SHAPES,
    TEXT_CROSS,
    LoraFile,
    make_lora,
    noise,
    original,
    pair,
)

from wanexport.dialects import split_key
from wanexport.errors import AdapterError
from wanexport.lora import Adapter, resolve_adapter
from wanexport.names import module_shapes, to_original

MIXED_RANKS = {module: 1 + index % 5 for index, module in enumerate(BLOCK_LINEARS)}
LAST_BLOCK = tuple(module for module in TEXT_CROSS if module.startswith("blocks.1."))

VARIATIONS: dict[str, Callable[[str], LoraFile]] = {
    "cross": lambda d: make_lora(d, CROSS),
    "cross-alpha": lambda d: make_lora(d, CROSS, rank=4, alpha=2.0),
    "all-linears-alpha-1": lambda d: make_lora(d, LINEARS, rank=8, alpha=1.0),
    "rank-per-module": lambda d: make_lora(d, BLOCK_LINEARS, rank=MIXED_RANKS, alpha=3.0),
    "one-block-bf16": lambda d: make_lora(d, LAST_BLOCK, alpha=8.0, dtype=torch.bfloat16),
    "image-only-int-alpha": lambda d: make_lora(d, IMAGE, alpha=64, alpha_dtype=torch.int64),
}


def check_gains(adapter: Adapter, gains: dict[str, torch.Tensor], tolerance: float = 1e-5) -> None:
    """Check that the adapter changes exactly these parameters, by these values."""
    assert set(adapter.by_parameter) == set(gains)
    for name, gain in gains.items():
        found = sum(delta.change(torch.zeros(SHAPES[name])) for delta in adapter.by_parameter[name])
        torch.testing.assert_close(found, gain, rtol=tolerance, atol=tolerance * 10)


def resolve(made: LoraFile, folder: Path, **options: float) -> Adapter:
    return resolve_adapter(made.save(folder / "lora.safetensors"), SHAPES, **options)


@pytest.mark.parametrize("variation", VARIATIONS)
@pytest.mark.parametrize("dialect", DIALECTS)
def test_dialect(dialect: str, variation: str, tmp_path: Path) -> None:
    made = VARIATIONS[variation](dialect)
    check_gains(resolve(made, tmp_path), made.gains)


@pytest.mark.parametrize(
    ("dialect", "name"),
    [
        ("A-diffusers", "diffusers (transformer.)"),
        ("raw-peft", "PEFT (base_model.model.)"),
        ("B-comfy-peft", "ComfyUI (diffusion_model.)"),
        ("D-musubi", "kohya/musubi (lora_unet_) + alpha"),
        ("D'-videox-fun", "VideoX-Fun (lora_unet__) + alpha"),
        ("E-diffsynth", "DiffSynth (lora_A.NAME)"),
        ("original-no-prefix", "original names without prefix"),
        ("A'-no-prefix", "diffusers names without prefix"),
    ],
)
def test_dialect_has_a_name(dialect: str, name: str, tmp_path: Path) -> None:
    made = make_lora(dialect, CROSS, alpha=4.0 if "alpha" in name else None)
    assert resolve(made, tmp_path).dialect == name


def test_underscored_names_are_unambiguous() -> None:
    modules = {name.removesuffix(".weight").removesuffix(".bias") for name in SHAPES}
    names = {name: m for m in modules for name in (m, to_original(m) or m)}
    assert len({name.replace(".", "_") for name in names}) == len(names)


def test_every_key_of_every_dialect_is_understood() -> None:
    for dialect in DIALECTS:
        for text in make_lora(dialect, LINEARS, alpha=1.0).tensors:
            key = split_key(text)
            assert key is not None
            assert key.role in ("A", "B", "alpha")


# What other loaders drop or scale wrongly (the facts are those of diffusers 0.42).


def test_loading_twice_scales_once(tmp_path: Path) -> None:
    made = make_lora("C-comfy-down-up", CROSS, alpha=2.0)
    check_gains(resolve(made, tmp_path), made.gains)
    check_gains(resolve(made, tmp_path), made.gains)


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


# Metadata


def settings(prefix: str = "transformer.", **values: object) -> dict[str, str]:
    packed = {f"{prefix}{key}": value for key, value in values.items()}
    return {"format": "pt", "lora_adapter_metadata": json.dumps(packed)}


METADATA: dict[str, tuple[dict[str, object], float]] = {
    "alpha": ({"r": 4, "lora_alpha": 16}, 4.0),
    "rslora": ({"r": 4, "lora_alpha": 16, "use_rslora": True}, 8.0),
    "alpha-pattern": ({"r": 4, "lora_alpha": 4, "alpha_pattern": {"attn2.to_q": 1}}, 0.25),
    "alpha-pattern-regex": ({"r": 4, "lora_alpha": 4, "alpha_pattern": {r".*\.to_q": 2}}, 0.5),
    "rank-pattern": ({"r": 32, "lora_alpha": 8, "rank_pattern": {"attn2.to_q": 4}}, 2.0),
    "rank-alone": ({"r": 4}, 1.0),
    "text-encoder-too": ({"r": 4, "lora_alpha": 2, "lora_bias": False, "task_type": None}, 0.5),
}


@pytest.mark.parametrize("case", METADATA)
@pytest.mark.parametrize("dialect", ["A-diffusers", "A'-no-prefix"])
def test_metadata_decides_the_scale(dialect: str, case: str, tmp_path: Path) -> None:
    values, scale = METADATA[case]
    module = CROSS[0]
    made = make_lora(dialect, [module])
    made.metadata = settings("transformer." if dialect == "A-diffusers" else "", **values)
    check_gains(resolve(made, tmp_path), {k: scale * gain for k, gain in made.gains.items()})


def test_metadata_precedes_alpha_tensors(tmp_path: Path) -> None:
    made = make_lora("A-diffusers", CROSS, rank=4, alpha=2.0)
    made.metadata = settings(r=4, lora_alpha=8)
    check_gains(resolve(made, tmp_path), {k: 4 * gain for k, gain in made.gains.items()})


def test_metadata_of_another_model_is_not_ours(tmp_path: Path) -> None:
    made = make_lora("A-diffusers", CROSS)
    made.metadata = settings("text_encoder.", r=99, lora_alpha=1)
    check_gains(resolve(made, tmp_path), made.gains)


def test_adapter_config_counts_only_beside_peft_files(tmp_path: Path) -> None:
    made = make_lora("raw-peft", CROSS)
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')
    peft = resolve_adapter(made.save(tmp_path / "adapter_model.safetensors"), SHAPES)
    check_gains(peft, {k: 2 * gain for k, gain in made.gains.items()})
    check_gains(resolve(made, tmp_path), made.gains)


# LoHa, LoKr, DoRA by hand; test_lora_algebra.py compares them with PEFT's own.


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


def test_canonical_adapter_reads_back(tmp_path: Path) -> None:
    a, b = pair(CROSS[0], 4)
    made = LoraFile({f"{CROSS[0]}.lora_A": a, f"{CROSS[0]}.lora_B": b})
    made.metadata = {"format": "wanexport-adapter", "random_weights": "true"}
    adapter = resolve(made, tmp_path)
    check_gains(adapter, {f"{CROSS[0]}.weight": b @ a})
    assert adapter.dialect == "canonical adapter"
    assert adapter.random_weights


# diffusers' converters as the oracle, where they are right

CONVERTIBLE = {
    "A-cross": ("A-diffusers", CROSS, None),
    "B-all": ("B-comfy-peft", BLOCK_LINEARS, None),
    "B-cross": ("B-comfy-peft", CROSS, None),
    "C-all-alpha": ("C-comfy-down-up", BLOCK_LINEARS, 1.0),
    "C-cross-alpha": ("C-comfy-down-up", CROSS, 6.0),
    "C-image": ("C-comfy-down-up", IMAGE, None),
    "D-all-alpha": ("D-musubi", BLOCK_LINEARS, 1.0),
    "D-all-alpha-large": ("D-musubi", BLOCK_LINEARS, 32.0),
}


@pytest.mark.parametrize("case", CONVERTIBLE)
def test_agrees_with_diffusers(case: str, tmp_path: Path) -> None:
    dialect, modules, alpha = CONVERTIBLE[case]
    made = make_lora(dialect, modules, rank=4, alpha=alpha)
    copies = {key: tensor.clone() for key, tensor in made.tensors.items()}
    converted = WanLoraLoaderMixin.lora_state_dict(copies)
    gains = {}
    for module in modules:
        a = converted.pop(f"transformer.{module}.lora_A.weight")
        gains[f"{module}.weight"] = converted.pop(f"transformer.{module}.lora_B.weight") @ a
    assert not converted
    check_gains(resolve(made, tmp_path), gains)


# Refusals


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


def with_metadata(**values: object) -> LoraFile:
    made = make_lora("A-diffusers", CROSS)
    made.metadata = settings(**values)
    return made


ONE = torch.ones(1)
Q = CROSS[0]
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
        r"norm2\.weight is no matrix",
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
        r"1 of 25 keys are no LoRA tensors: diffusion_model\.head\.head\.weight",
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
    "metadata-pattern": (with_metadata(alpha_pattern={"(": 1}), r"is no pattern"),
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


def test_takes_a_text_model_file_on_an_image_model(tmp_path: Path) -> None:
    made = make_lora("B-comfy-peft", TEXT_CROSS)
    check_gains(resolve(made, tmp_path), made.gains)


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


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_refuses_a_strength_that_is_no_number(strength: float, tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="strength"):
        resolve(make_lora("A-diffusers", CROSS), tmp_path, strength=strength)


def test_refuses_files_that_are_no_safetensors(tmp_path: Path) -> None:
    pickle = tmp_path / "lora.pt"
    torch.save({"a": torch.ones(1)}, pickle)
    with pytest.raises(AdapterError, match="pickle"):
        resolve_adapter(pickle, SHAPES)
    renamed = pickle.rename(tmp_path / "renamed.safetensors")
    with pytest.raises(AdapterError, match="not a whole safetensors file"):
        resolve_adapter(renamed, SHAPES)
    with pytest.raises(AdapterError, match="doesn't exist"):
        resolve_adapter(tmp_path / "absent.safetensors", SHAPES)
