"""Merging, stacking and splitting; PEFT's own merge is the oracle."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from lorafiles import (
    ARCH,
    BLOCK_LINEARS,
    CROSS,
    DIALECTS,
    SHAPES,
    TEXT_CROSS,
    LoraFile,
    make_lora,
    noise,
)
from peft import LoHaConfig, LoKrConfig, LoraConfig, PeftConfig, get_peft_model
from torch import nn

from wanexport.errors import AdapterError
from wanexport.lora.adapter import (
    Adapter,
    merge_blocks,
    merge_parameter,
    resolve_adapter,
    split_rest,
    stack_low_rank,
    stacked_ranks,
    touched_parameters,
)

Q, OUT = "blocks.0.attn2.to_q", "blocks.1.attn2.to_out.0"


def make_model() -> WanTransformer3DModel:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return WanTransformer3DModel(
            num_layers=ARCH.num_layers,
            num_attention_heads=ARCH.num_attention_heads,
            attention_head_dim=ARCH.attention_head_dim,
            ffn_dim=ARCH.ffn_dim,
            in_channels=ARCH.in_channels,
            out_channels=ARCH.out_channels,
            text_dim=ARCH.text_dim,
            freq_dim=ARCH.freq_dim,
            image_dim=ARCH.image_dim,
            added_kv_proj_dim=ARCH.added_kv_proj_dim,
        ).eval()


@pytest.fixture(scope="module")
def model() -> WanTransformer3DModel:
    return make_model()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def check_merged(
    adapters: list[Adapter], pristine: dict[str, torch.Tensor], merged: dict[str, torch.Tensor]
) -> None:
    """Check that merging changes what the oracle changed, and by the same values."""
    changed = {name for name, weight in merged.items() if not weight.equal(pristine[name])}
    assert touched_parameters(adapters) == changed
    for name in changed:
        found = merge_parameter(name, pristine[name], adapters)
        torch.testing.assert_close(found, merged[name], rtol=1e-5, atol=1e-5)


TARGETS = ["attn2.to_q", "attn2.to_k", "attn2.to_out.0", "attn2.add_k_proj", "ffn.net.2"]
RANDOM: dict[str, Any] = {"target_modules": TARGETS, "init_lora_weights": False}
LYCORIS: dict[str, Any] = {"target_modules": TARGETS, "init_weights": False}
PEFT_CONFIGS: dict[str, PeftConfig] = {
    "lora": LoraConfig(r=4, lora_alpha=4, **RANDOM),
    "alpha": LoraConfig(r=4, lora_alpha=1, **RANDOM),
    "rslora": LoraConfig(r=8, lora_alpha=16, use_rslora=True, **RANDOM),
    "patterns": LoraConfig(
        r=4,
        lora_alpha=8,
        rank_pattern={"attn2.to_q": 2, r"blocks\.0\.attn2\.to_k": 6},
        alpha_pattern={"attn2.to_q": 5, "to_out.0": 1},
        **RANDOM,
    ),
    "rslora-patterns": LoraConfig(
        r=4, lora_alpha=8, use_rslora=True, rank_pattern={"attn2.to_q": 9}, **RANDOM
    ),
    "dora": LoraConfig(r=4, lora_alpha=8, use_dora=True, **RANDOM),
    "dora-rslora": LoraConfig(r=4, lora_alpha=8, use_dora=True, use_rslora=True, **RANDOM),
    "lora-bias": LoraConfig(r=4, lora_alpha=8, lora_bias=True, **RANDOM),
    "loha": LoHaConfig(r=4, alpha=2, **LYCORIS),
    "loha-patterns": LoHaConfig(r=4, alpha=2, rank_pattern={"attn2.to_q": 3}, **LYCORIS),
    "lokr": LoKrConfig(r=2, alpha=6, **LYCORIS),
    "lokr-both": LoKrConfig(r=2, alpha=6, decompose_both=True, **LYCORIS),
    "lokr-whole": LoKrConfig(r=64, alpha=32, **LYCORIS),
    "lokr-factor": LoKrConfig(r=2, alpha=2, decompose_factor=4, **LYCORIS),
}


@pytest.mark.filterwarnings("ignore::UserWarning:peft")  # of ranks that LoKr ignores
@pytest.mark.parametrize("case", PEFT_CONFIGS)
def test_merges_like_peft(case: str, model: WanTransformer3DModel, tmp_path: Path) -> None:
    pristine = {name: p.detach().clone() for name, p in model.named_parameters()}
    with seeded(7):
        adapted = get_peft_model(copy.deepcopy(model), copy.deepcopy(PEFT_CONFIGS[case]))
        for name, parameter in adapted.named_parameters():
            if "magnitude" in name or ".lora_B" in name:
                nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(str(tmp_path))
    adapter = resolve_adapter(tmp_path / "adapter_model.safetensors", SHAPES)
    merged = {name: p.detach() for name, p in adapted.merge_and_unload().named_parameters()}
    check_merged([adapter], pristine, merged)


@pytest.mark.parametrize("case", ["alpha", "rslora", "patterns", "dora"])
def test_reads_what_diffusers_saves(
    case: str, model: WanTransformer3DModel, tmp_path: Path
) -> None:
    pristine = {name: p.detach().clone() for name, p in model.named_parameters()}
    adapted = copy.deepcopy(model)
    with seeded(8):
        adapted.add_adapter(copy.deepcopy(PEFT_CONFIGS[case]))
    adapted.save_lora_adapter(tmp_path)
    adapter = resolve_adapter(tmp_path / "pytorch_lora_weights.safetensors", SHAPES)
    adapted.fuse_lora()
    adapted.unload_lora()
    check_merged([adapter], pristine, {n: p.detach() for n, p in adapted.named_parameters()})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of one file per rank, and one of DoRA and diffs."""
    folder = tmp_path_factory.mktemp("loras")
    for index, rank in enumerate((1, 3, 8)):
        made = make_lora(list(DIALECTS)[index * 5], BLOCK_LINEARS, rank=rank, alpha=2.0)
        made.save(folder / f"{rank}.safetensors")
    made = make_lora("C-comfy-down-up", TEXT_CROSS, rank=2)
    made.tensors["diffusion_model.blocks.0.cross_attn.q.dora_scale"] = noise(128, seed="m").abs()
    made.tensors["diffusion_model.blocks.0.cross_attn.k.diff"] = noise(128, 128, seed="d")
    made.tensors["diffusion_model.blocks.0.cross_attn.k.diff_b"] = noise(128, seed="b")
    made.save(folder / "mixed.safetensors")
    return folder


def adapter_of(folder: Path, name: str, strength: float = 1.0) -> Adapter:
    return resolve_adapter(folder / f"{name}.safetensors", SHAPES, strength)


strengths = st.floats(-2, 2, width=32)
choices = st.lists(st.tuples(st.sampled_from(["1", "3", "8"]), strengths), min_size=1, max_size=4)


@settings(max_examples=25, deadline=None)
@given(choices)
def test_stacking_adds(folder: Path, chosen: list[tuple[str, float]]) -> None:
    adapters = [adapter_of(folder, name, strength) for name, strength in chosen]
    deltas = [delta for adapter in adapters for delta in adapter.by_parameter[f"{OUT}.weight"]]
    a, b = stack_low_rank(deltas)
    assert a.shape == (sum(int(name) for name, _ in chosen), 128)
    assert stacked_ranks(adapters)[OUT] == a.shape[0] == b.shape[1]
    zero = torch.zeros(128, 128)
    total = sum((delta.change(zero) for delta in deltas), zero)
    torch.testing.assert_close(b @ a, total, rtol=1e-4, atol=1e-4)


mixed = st.lists(st.tuples(st.sampled_from(["1", "8", "mixed"]), strengths), max_size=3)


@settings(max_examples=25, deadline=None)
@given(mixed)
def test_merging_is_a_sum_in_any_order(folder: Path, chosen: list[tuple[str, float]]) -> None:
    adapters = [adapter_of(folder, name, strength) for name, strength in chosen]
    weight = noise(128, 128, seed="W")
    for parameter in (f"{Q}.weight", "blocks.0.attn2.to_k.weight"):
        merged = merge_parameter(parameter, weight, adapters)
        back = merge_parameter(parameter, weight, adapters[::-1])
        torch.testing.assert_close(merged, back, rtol=1e-5, atol=1e-4)
        alone = [merge_parameter(parameter, weight, [adapter]) - weight for adapter in adapters]
        torch.testing.assert_close(merged, sum(alone, weight), rtol=1e-4, atol=1e-4)


@settings(max_examples=15, deadline=None)
@given(mixed)
def test_carried_and_rest_are_all(folder: Path, chosen: list[tuple[str, float]]) -> None:
    adapters = [adapter_of(folder, name, strength) for name, strength in chosen]
    carried, rest = split_rest(adapters)
    assert all(delta.is_low_rank for adapter in carried for delta in adapter.deltas)
    assert not any(delta.is_low_rank for adapter in rest for delta in adapter.deltas)
    parts = [part for adapter in (*carried, *rest) for part in adapter.describe_parts()]
    assert sorted(parts) == sorted(p for adapter in adapters for p in adapter.describe_parts())
    weight = noise(128, 128, seed="W")
    name = "blocks.0.attn2.to_k.weight"
    half = merge_parameter(name, weight, rest)
    whole = merge_parameter(name, half, carried)
    torch.testing.assert_close(whole, merge_parameter(name, weight, adapters), rtol=1e-4, atol=1e-4)


def test_strength_0_is_the_base_even_for_dora(folder: Path) -> None:
    weight = noise(128, 128, seed="W")
    merged = merge_parameter(f"{Q}.weight", weight, [adapter_of(folder, "mixed", 0.0)])
    assert merged.equal(weight)


def test_split_by_targets(folder: Path) -> None:
    carried, rest = split_rest([adapter_of(folder, "3")], CROSS)
    assert carried[0].targets == tuple(sorted(CROSS))
    assert set(rest[0].targets) == set(BLOCK_LINEARS) - set(CROSS)
    assert carried[0].max_rank == 3


def test_parts_have_names(folder: Path) -> None:
    _, (rest,) = split_rest([adapter_of(folder, "mixed")])
    assert sorted(rest.describe_parts()) == [
        "DoRA of blocks.0.attn2.to_q.weight",
        "diff of blocks.0.attn2.to_k.bias",
        "diff of blocks.0.attn2.to_k.weight",
    ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rounds_once(dtype: torch.dtype, folder: Path) -> None:
    """Two adapters that a bf16 weight would swallow one by one arrive together."""
    weight = torch.ones(128, 128, dtype=torch.bfloat16)
    adapters = [adapter_of(folder, "1", 0.01), adapter_of(folder, "8", -0.01)]
    merged = merge_parameter(f"{Q}.weight", weight, adapters, dtype)
    a, b = stack_low_rank([adapter.by_parameter[f"{Q}.weight"][0] for adapter in adapters])
    exact = weight.double() + b.double() @ a.double()
    assert merged.dtype == dtype
    bits = torch.finfo(dtype).eps / 2
    assert ((merged.double() - exact).abs() <= exact.abs() * bits * 1.001 + 1e-6).all()


def test_leaves_the_weights_alone(folder: Path) -> None:
    weight = noise(128, 128, seed="W")
    before = weight.clone()
    for name in ("8", "mixed"):
        merge_parameter(f"{Q}.weight", weight, [adapter_of(folder, name)])
    assert weight.equal(before)
    assert merge_parameter("proj_out.weight", weight, [adapter_of(folder, "8")]) is weight


@pytest.mark.parametrize("adapter", ["8", "mixed"])
def test_merges_blocks_that_are_overwritten(adapter: str, folder: Path) -> None:
    name, weight = f"{Q}.weight", noise(128, 128, seed="W")
    room = torch.empty(5, 128)
    blocks = (room[: len(part)].copy_(part) for part in torch.split(weight, 5))
    adapters = [adapter_of(folder, adapter)]
    merged = torch.cat(list(merge_blocks(name, blocks, adapters, torch.float32)))
    torch.testing.assert_close(merged, merge_parameter(name, weight, adapters))


def test_refuses_overflow(tmp_path: Path) -> None:
    made = LoraFile({f"transformer.{Q}.diff": torch.full((128, 128), 70_000.0)})
    adapter = resolve_adapter(made.save(tmp_path / "x.safetensors"), SHAPES)
    weight = torch.zeros(128, 128, dtype=torch.float16)
    with pytest.raises(AdapterError, match=r"blocks\.0\.attn2\.to_q\.weight.*overflows fp16"):
        merge_parameter(f"{Q}.weight", weight, [adapter])
