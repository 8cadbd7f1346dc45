"""Every dialect of LoRA file comes to the same change of the weights; diffusers is an oracle."""

from __future__ import annotations

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
    TEXT_CROSS,
    LoraFile,
    check_gains,
    make_lora,
    pair,
    resolve,
)

from wanexport.lora.keys import split_key
from wanexport.model.names import to_original

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


def test_takes_a_text_model_file_on_an_image_model(tmp_path: Path) -> None:
    made = make_lora("B-comfy-peft", TEXT_CROSS)
    check_gains(resolve(made, tmp_path), made.gains)


def test_canonical_adapter_reads_back(tmp_path: Path) -> None:
    a, b = pair(CROSS[0], 4)
    made = LoraFile({f"{CROSS[0]}.lora_A": a, f"{CROSS[0]}.lora_B": b})
    made.metadata = {"format": "wanexport-adapter", "random_weights": "true"}
    adapter = resolve(made, tmp_path)
    check_gains(adapter, {f"{CROSS[0]}.weight": b @ a})
    assert adapter.dialect == "canonical adapter"
    assert adapter.random_weights


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
