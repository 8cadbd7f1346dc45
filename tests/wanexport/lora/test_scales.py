"""What scales a LoRA: its alpha, its metadata, the file beside it; and each of them once."""

from __future__ import annotations

from pathlib import Path

import pytest
from lorafiles import CROSS, SHAPES, check_gains, make_lora, resolve, settings

from wanexport.errors import AdapterError
from wanexport.lora.adapter import resolve_adapter


def test_loading_twice_scales_once(tmp_path: Path) -> None:
    made = make_lora("C-comfy-down-up", CROSS, alpha=2.0)
    check_gains(resolve(made, tmp_path), made.gains)
    check_gains(resolve(made, tmp_path), made.gains)


METADATA: dict[str, tuple[dict[str, object], float]] = {
    "alpha": ({"r": 4, "lora_alpha": 16}, 4.0),
    "rslora": ({"r": 4, "lora_alpha": 16, "use_rslora": True}, 8.0),
    "alpha-pattern": ({"r": 4, "lora_alpha": 4, "alpha_pattern": {"attn2.to_q": 1}}, 0.25),
    "alpha-pattern-regex": ({"r": 4, "lora_alpha": 4, "alpha_pattern": {r".*\.to_q": 2}}, 0.5),
    "rank-pattern": ({"r": 32, "lora_alpha": 8, "rank_pattern": {"attn2.to_q": 4}}, 2.0),
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


@pytest.mark.parametrize("prefix", ["text_encoder.", "transformer.transformer.", "unet."])
def test_metadata_of_another_model_gives_no_scale(prefix: str, tmp_path: Path) -> None:
    made = make_lora("A-diffusers", CROSS)
    made.metadata = settings(prefix, r=99, lora_alpha=1)
    with pytest.raises(AdapterError, match="neither r nor alpha"):
        resolve(made, tmp_path)


def test_adapter_config_of_several_files_is_peft_s_own(tmp_path: Path) -> None:
    made = make_lora("raw-peft", CROSS)
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8}')
    peft = resolve_adapter(made.save(tmp_path / "adapter_model.safetensors"), SHAPES)
    check_gains(peft, {k: 2 * gain for k, gain in made.gains.items()})
    with pytest.raises(AdapterError, match="may belong to another LoRA"):
        resolve(made, tmp_path)
    stated = make_lora("D-musubi", CROSS, alpha=2.0)
    check_gains(resolve(stated, tmp_path), stated.gains)
