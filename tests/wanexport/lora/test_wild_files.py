"""LoRA files as people have them: wrapped, renamed, without alpha, of another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lorafiles import (
    BLOCK_LINEARS,
    CROSS,
    SHAPES,
    LoraFile,
    check_gains,
    make_lora,
    original,
    pair,
    resolve,
)

from wanexport.errors import AdapterError
from wanexport.lora.adapter import resolve_adapter
from wanexport.model.config import load_config
from wanexport.model.names import module_shapes

WRAPPED = (
    "pipe.dit.",
    "dit.",
    "net.",
    "module.",
    "model.",
    "transformer._orig_mod.",
    "_orig_mod.",
    "module.transformer.",
    "base_model.model.module.",
)


@pytest.mark.parametrize("wrapper", WRAPPED)
def test_wrappers_come_off_and_are_named(wrapper: str, tmp_path: Path) -> None:
    made = LoraFile({}, {})
    for module in CROSS:
        a, b = pair(module, 4)
        made.tensors[f"{wrapper}{module}.lora_A.weight"] = a
        made.tensors[f"{wrapper}{module}.lora_B.weight"] = b
        made.gains[f"{module}.weight"] = b @ a
    adapter = resolve(made, tmp_path)
    check_gains(adapter, made.gains)
    assert wrapper.split(".")[-2] in adapter.dialect


def test_checkpointed_modules_come_off_inside_names(tmp_path: Path) -> None:
    module, inner = CROSS[0], CROSS[0].replace(".0.", ".0._checkpoint_wrapped_module.", 1)
    a, b = pair(module, 4)
    made = LoraFile({f"{inner}.lora_A.weight": a, f"{inner}.lora_B.weight": b})
    check_gains(resolve(made, tmp_path), {f"{module}.weight": b @ a})


def _hybrid(module: str) -> str:
    """Rename as ai-toolkit does: attentions and to_q, but not to_out.0 and the feed-forward."""
    name = f"lycoris_{module}".replace(".", "_").replace("attn1", "self_attn")
    name = name.replace("attn2", "cross_attn").replace("add_k_proj", "k_img")
    name = name.replace("add_v_proj", "v_img")
    for letter in "qkv":
        name = name.replace(f"to_{letter}", letter)
    return name


@pytest.mark.parametrize("spell", [_hybrid, lambda m: f"diffusion_model.{original(m)}"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_whole_lokr_factors_ignore_alpha(
    spell: Callable[[str], str], dtype: torch.dtype, tmp_path: Path
) -> None:
    made, gains = LoraFile({}), {}
    for module in BLOCK_LINEARS:
        out, width = SHAPES[f"{module}.weight"]
        w1 = torch.full((2, 2), 0.5, dtype=dtype)
        w2 = torch.randn(out // 2, width // 2).to(dtype)
        stem = spell(module)
        made.tensors |= {f"{stem}.lokr_w1": w1, f"{stem}.lokr_w2": w2}
        made.tensors[f"{stem}.alpha"] = torch.tensor(9999999999.0).to(dtype)
        gains[f"{module}.weight"] = torch.kron(w1.float(), w2.float())
    adapter = resolve(made, tmp_path)
    check_gains(adapter, gains)
    assert not adapter.notes


@pytest.mark.parametrize(
    "stem", ["lora_unet_blocks.0.self_attn_q", "lora_unet_blocks_0.attn1.to_q"]
)
def test_half_dotted_names(stem: str, tmp_path: Path) -> None:
    a, b = pair("blocks.0.attn1.to_q", 4)
    made = LoraFile({f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b})
    check_gains(resolve(made, tmp_path), {"blocks.0.attn1.to_q.weight": b @ a})


def test_fastvideo_alpha(tmp_path: Path) -> None:
    module = CROSS[0]
    a, b = pair(module, 4)
    stem = f"diffusion_model.{module}"
    made = LoraFile({f"{stem}.lora_A": a, f"{stem}.lora_B": b})
    made.tensors[f"{stem}.lora_alpha"] = torch.tensor(2.0)
    check_gains(resolve(made, tmp_path), {f"{module}.weight": b @ a * 0.5})


def test_configuration_beside_the_only_file_counts(tmp_path: Path) -> None:
    made = make_lora("A-diffusers", CROSS)
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')
    adapter = resolve_adapter(made.save(tmp_path / "mine.safetensors"), SHAPES)
    check_gains(adapter, {k: 2 * gain for k, gain in made.gains.items()})
    assert adapter.scale_from == "sidecar"


@pytest.mark.parametrize("case", ["rank", "second-file"])
def test_configuration_that_does_not_fit_is_refused(case: str, tmp_path: Path) -> None:
    made = make_lora("A-diffusers", CROSS)
    path = made.save(tmp_path / "mine.safetensors")
    rank = 8 if case == "rank" else 4
    (tmp_path / "adapter_config.json").write_text(f'{{"r": {rank}, "lora_alpha": 8}}')
    if case == "second-file":
        made.save(tmp_path / "other.safetensors")
    with pytest.raises(AdapterError, match=r"mine\.safetensors.*adapter_config\.json"):
        resolve_adapter(path, SHAPES)


@pytest.mark.parametrize(
    ("dialect", "metadata", "notes"),
    [
        ("A-diffusers", {}, ["scale 1"]),
        ("D-musubi", {"ss_network_alpha": "16"}, ["scale 1", "ss_network_alpha 16"]),
        ("raw-peft", {}, ["scale 1", "adapter_config.json"]),
    ],
)
def test_unstated_alpha_is_said(
    dialect: str, metadata: dict[str, str], notes: list[str], tmp_path: Path
) -> None:
    made = make_lora(dialect, CROSS)
    made.metadata = metadata
    said = resolve(made, tmp_path).notes
    assert len(said) == len(notes)
    assert all(part in note for part, note in zip(notes, said, strict=True))


def test_stated_alpha_needs_no_note(tmp_path: Path) -> None:
    assert resolve(make_lora("D-musubi", CROSS, alpha=2.0), tmp_path).notes == ()


def test_another_width_names_the_configuration_that_fits(tmp_path: Path) -> None:
    a, b = torch.randn(2, 1536), torch.randn(1536, 2)
    made = LoraFile({"lora_unet_blocks_29_self_attn_q.lora_down.weight": a})
    made.tensors["lora_unet_blocks_29_self_attn_q.lora_up.weight"] = b
    shapes = module_shapes(load_config("wan2.1-i2v-14b-480p").architecture)
    with pytest.raises(AdapterError) as refused:
        resolve_adapter(made.save(tmp_path / "small.safetensors"), shapes)
    assert "--config" in (refused.value.hint or "")
    assert "wan2.1-t2v-1.3b-480p" in (refused.value.hint or "")


def test_stand_in_is_refused_by_name(tmp_path: Path) -> None:
    a, b = pair(CROSS[0], 4)
    stem = "blocks.0.self_attn.q_loras"
    made = LoraFile({f"{stem}.down.weight": a, f"{stem}.up.weight": b})
    with pytest.raises(AdapterError, match="Stand-In"):
        resolve(made, tmp_path)
