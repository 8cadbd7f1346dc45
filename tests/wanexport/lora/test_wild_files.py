"""LoRA files as people have them: wrapped, renamed, without alpha, of another model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lorafiles import (
    BLOCK_LINEARS,
    CROSS,
    SHAPES,
    T2V_ARCH,
    T2V_SHAPES,
    TEXT_CROSS,
    LoraFile,
    check_gains,
    make_lora,
    original,
    pair,
    resolve,
    settings,
)
from peft import LoraConfig, PeftModel

from wanexport.errors import AdapterError
from wanexport.lora.adapter import merge_parameter, resolve_adapter
from wanexport.lora.find import find_lora
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
        ("B-comfy-peft", {"lora_alpha": "16", "lora_rank": "4"}, ["scale 1", "lora_alpha 16"]),
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


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_configuration_may_be_an_editor_s_of_windows(encoding: str, tmp_path: Path) -> None:
    made = make_lora("raw-peft", CROSS)
    text = '{"r": 4,\r\n "lora_alpha": 8}\r\n'
    (tmp_path / "adapter_config.json").write_bytes(text.encode(encoding))
    adapter = resolve_adapter(made.save(tmp_path / "adapter_model.safetensors"), SHAPES)
    check_gains(adapter, {k: 2 * gain for k, gain in made.gains.items()})


def test_two_alphas_are_said(tmp_path: Path) -> None:
    made = make_lora("A-diffusers", CROSS, rank=4, alpha=2.0)
    made.metadata = settings(r=4, lora_alpha=8)
    (note,) = resolve(made, tmp_path).notes
    assert "says alpha 8" in note
    assert ".alpha 2" in note
    made.metadata = settings(r=4, lora_alpha=2)
    assert resolve(made, tmp_path).notes == ()


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        (f"transformer.{CROSS[0]}.scaling", "name no parameter"),
        ("tokenizer.embedding.weight", "name no parameter"),
        ("lora_scale", "name no parameter"),
        (f"transformer.{CROSS[0]}.weight", "set_"),
    ],
)
def test_only_parameters_may_be_meant_as_set(key: str, hint: str, tmp_path: Path) -> None:
    made = make_lora("A-diffusers", CROSS)
    made.tensors[key] = torch.ones(())
    with pytest.raises(AdapterError, match="aren't LoRA tensors") as caught:
        resolve(made, tmp_path)
    assert hint in caught.value.hint


def test_fused_projections_are_named(tmp_path: Path) -> None:
    stem = "transformer.blocks.0.attn1.to_qkv"
    made = LoraFile({f"{stem}.lora_A.weight": torch.ones(4, 128)})
    made.tensors[f"{stem}.lora_B.weight"] = torch.ones(384, 4)
    with pytest.raises(AdapterError, match="q, k and v fused") as caught:
        resolve(made, tmp_path)
    assert "unfuse_qkv_projections()" in caught.value.hint


def test_a_folder_s_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="holds no safetensors file"):
        find_lora(str(tmp_path))
    for name in ("epoch-1", "epoch-2"):
        make_lora("A-diffusers", CROSS[:1]).save(tmp_path / f"{name}.safetensors")
    with pytest.raises(AdapterError) as caught:
        find_lora(str(tmp_path))
    assert str(tmp_path / "epoch-2.safetensors") in caught.value.hint


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


@pytest.mark.parametrize(
    "root", ["some.trainer.of.mine.", "network.", "wan_dit.model.", "transformer.inner."]
)
def test_any_common_prefix_comes_off_and_is_said(root: str, tmp_path: Path) -> None:
    made = LoraFile()
    for module in (*CROSS, "proj_out"):
        a, b = pair(module, 4)
        made.tensors |= {f"{root}{module}.lora_A.weight": a, f"{root}{module}.lora_B.weight": b}
        made.gains[f"{module}.weight"] = b @ a
    adapter = resolve(made, tmp_path)
    check_gains(adapter, made.gains)
    assert (
        adapter.notes[0]
        == f"its names begin with {root.removeprefix('transformer.')}, which is taken off"
    )
    assert root in adapter.dialect


def test_an_unknown_underscored_prefix_comes_off(tmp_path: Path) -> None:
    module = "blocks.0.attn1.to_q"
    a, b = pair(module, 4)
    stem = "lora_dit_blocks_0_self_attn_q"
    made = LoraFile({f"{stem}.lora_down.weight": a, f"{stem}.lora_up.weight": b})
    check_gains(resolve(made, tmp_path), {f"{module}.weight": b @ a})


@pytest.mark.parametrize(
    "roots",
    [("mine.", "other."), ("mine.", ""), ("motion_encoder.",), ("vace_",), ("transformer_2.",)],
    ids=["two", "some-without", "an-encoder", "vace", "second-expert"],
)
def test_what_may_be_another_model_s_prefix_stays(roots: tuple[str, ...], tmp_path: Path) -> None:
    made = LoraFile()
    for root, module in zip(roots * len(CROSS), CROSS, strict=False):
        a, b = pair(module, 4)
        made.tensors |= {f"{root}{module}.lora_A.weight": a, f"{root}{module}.lora_B.weight": b}
    with pytest.raises(AdapterError, match=roots[0].strip("_.")):
        resolve(made, tmp_path)


def test_stray_markers_are_left_aside_and_said(tmp_path: Path) -> None:
    made = make_lora("A-diffusers", CROSS, alpha=4.0)
    made.tensors |= {"iteration": torch.tensor(500), "format_version": torch.ones(2)}
    adapter = resolve(made, tmp_path)
    check_gains(adapter, made.gains)
    assert adapter.notes == ("left aside, since it changes nothing: format_version, iteration",)


@pytest.mark.parametrize("name", ["network_alpha", "lora_scale", "rank", "multiplier"])
def test_a_stray_tensor_that_may_scale_is_refused(name: str, tmp_path: Path) -> None:
    made = make_lora("A-diffusers", CROSS)
    made.tensors[name] = torch.tensor(0.5)
    with pytest.raises(AdapterError, match=name):
        resolve(made, tmp_path)


def _saved(form: str) -> tuple[LoraFile, dict[str, torch.Tensor]]:
    """Make PEFT's file of a LoRA whose proj_out was trained as a whole."""
    values = {"proj_out.weight": torch.randn(64, 128), "proj_out.bias": torch.randn(64)}
    prefix = {"metadata": "transformer."}.get(form, "base_model.model.")
    made = make_lora("A-diffusers" if form == "metadata" else "raw-peft", CROSS, rank=4)
    for name, value in values.items():
        module, _, last = name.rpartition(".")
        inner = ".modules_to_save.default" if form == "dump" else ""
        made.tensors[f"{prefix}{module}{inner}.{last}"] = value
    if form == "metadata":
        made.metadata = settings(r=4, lora_alpha=4, modules_to_save=["proj_out"])
    return made, values


@pytest.mark.parametrize("form", ["saved", "dump", "metadata"])
@pytest.mark.parametrize("strength", [1.0, 0.5])
def test_modules_to_save_are_set(form: str, strength: float, tmp_path: Path) -> None:
    made, values = _saved(form)
    adapter = resolve(made, tmp_path, strength)
    assert "whole parameters" in adapter.dialect
    for name, value in values.items():
        base = torch.randn(SHAPES[name])
        merged = merge_parameter(name, base, [adapter])
        if strength == 1.0:
            assert torch.equal(merged, value)  # not only nearly
        torch.testing.assert_close(merged, base + strength * (value - base))
    for name, gain in made.gains.items():
        merged = merge_parameter(name, torch.zeros(SHAPES[name]), [adapter])
        torch.testing.assert_close(merged, strength * gain, rtol=1e-5, atol=1e-4)


def test_peft_s_trained_biases_are_set(tmp_path: Path) -> None:
    made = make_lora("raw-peft", CROSS[:1], rank=4)
    value = torch.randn(128)
    made.tensors[f"base_model.model.{CROSS[0]}.base_layer.bias"] = value
    adapter = resolve(made, tmp_path)
    name = f"{CROSS[0]}.bias"
    assert torch.equal(merge_parameter(name, torch.ones(128), [adapter]), value)


def test_what_peft_itself_saves_is_applied_in_full(tmp_path: Path) -> None:
    """`modules_to_save` and `bias` as PEFT writes and reads them back."""
    model = torch.nn.Module()
    model.proj_out = torch.nn.Linear(128, 64)
    model.blocks = torch.nn.ModuleList([torch.nn.Module()])
    block: Any = model.blocks[0]
    block.attn2 = torch.nn.Module()
    block.attn2.to_q = torch.nn.Linear(128, 128)
    base = {name: value.detach().clone() for name, value in model.state_dict().items()}
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["to_q"], modules_to_save=["proj_out"], bias="all"
    )
    wrapped: Any = PeftModel(model, config)
    with torch.no_grad():
        for value in wrapped.parameters():
            if value.requires_grad:
                value.add_(torch.randn_like(value) * 0.1)
    wrapped.save_pretrained(tmp_path)
    trained = wrapped.merge_and_unload().state_dict()
    adapter = resolve_adapter(tmp_path / "adapter_model.safetensors", SHAPES)
    assert set(adapter.by_parameter) == set(base)
    for name, value in base.items():
        torch.testing.assert_close(merge_parameter(name, value, [adapter]), trained[name])


def test_a_parameter_cannot_be_set_and_changed(tmp_path: Path) -> None:
    made = make_lora("raw-peft", CROSS[:1])
    made.tensors[f"base_model.model.{CROSS[0]}.weight"] = torch.ones(128, 128)
    with pytest.raises(AdapterError, match=r"to_q\.weight is both replaced and changed"):
        resolve(made, tmp_path)


def test_stand_in_is_refused_by_name(tmp_path: Path) -> None:
    a, b = pair(CROSS[0], 4)
    stem = "blocks.0.self_attn.q_loras"
    made = LoraFile({f"{stem}.down.weight": a, f"{stem}.up.weight": b})
    with pytest.raises(AdapterError, match="Stand-In"):
        resolve(made, tmp_path)


def test_unianimate_is_refused_by_name(tmp_path: Path) -> None:
    made = make_lora("E-diffsynth", CROSS)
    made.tensors |= {"dwpose_embedding.0.weight": torch.ones(16, 3, 3, 3, 3),
                     "randomref_embedding_pose.0.weight": torch.ones(16, 3, 3, 3)}  # fmt: skip
    with pytest.raises(AdapterError, match=r"is UniAnimate-DiT's .*poses") as refused:
        resolve(made, tmp_path)
    assert "WanVideoWrapper" in refused.value.hint


@pytest.mark.parametrize("form", ["trained", "converted", "whole"])
def test_control_loras_are_refused_by_name(form: str, tmp_path: Path) -> None:
    made = make_lora("B-comfy-peft", TEXT_CROSS)
    stem = "diffusion_model.patch_embedding"
    made.tensors[f"{stem}.lora_A.weight"] = torch.ones(4, 32, 1, 2, 2)
    made.tensors[f"{stem}.lora_B.weight"] = torch.ones(128, 4, 1, 1, 1)
    if form == "converted":
        made.tensors[f"{stem}.reshape_weight"] = torch.tensor([128, 32, 1, 2, 2])
    if form == "whole":
        made.tensors = {n: t for n, t in made.tensors.items() if "patch_embedding" not in n}
        made.tensors[f"{stem}.diff"] = torch.ones(128, 32, 1, 2, 2)
    with pytest.raises(AdapterError, match=r"is a control LoRA .*control video") as refused:
        resolve_adapter(made.save(tmp_path / "tile.safetensors"), T2V_SHAPES)
    assert "inputs" in refused.value.hint


def test_a_patch_embedding_of_the_model_s_own_width_is_no_control(tmp_path: Path) -> None:
    shapes = module_shapes(T2V_ARCH.model_copy(update={"in_channels": 20}))
    change = torch.randn(128, 20, 1, 2, 2)
    made = LoraFile({"diffusion_model.patch_embedding.diff": change})
    adapter = resolve_adapter(made.save(tmp_path / "own.safetensors"), shapes)
    name = "patch_embedding.weight"
    assert torch.equal(merge_parameter(name, torch.zeros(shapes[name]), [adapter]), change)


def test_a_lora_of_ti2v_is_refused_by_name(tmp_path: Path) -> None:
    stem = "diffusion_model.blocks.29.self_attn.q"
    made = LoraFile({f"{stem}.lora_A.weight": torch.ones(2, 3072)})
    made.tensors[f"{stem}.lora_B.weight"] = torch.ones(3072, 2)
    with pytest.raises(AdapterError, match=r"as Wan2\.2 TI2V-5B is") as refused:
        resolve(made, tmp_path)
    assert "timestep" in refused.value.hint
