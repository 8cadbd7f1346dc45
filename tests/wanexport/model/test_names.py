"""Names and shapes against diffusers' own class, without its weights."""

from __future__ import annotations

import pytest
import torch
from diffusers import WanTransformer3DModel

from wanexport.model.config import Architecture, list_configs, load_config
from wanexport.model.names import module_shapes, to_diffusers, to_original


def reference_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        model = WanTransformer3DModel(
            num_layers=arch.num_layers,
            num_attention_heads=arch.num_attention_heads,
            attention_head_dim=arch.attention_head_dim,
            ffn_dim=arch.ffn_dim,
            in_channels=arch.in_channels,
            out_channels=arch.out_channels,
            text_dim=arch.text_dim,
            freq_dim=arch.freq_dim,
            image_dim=arch.image_dim,
            added_kv_proj_dim=arch.added_kv_proj_dim,
            pos_embed_seq_len=arch.pos_embed_seq_len,
        )
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


@pytest.mark.parametrize("config", list_configs())
def test_shapes_are_those_of_diffusers(config: str) -> None:
    arch = load_config(config).architecture
    expected = reference_shapes(arch)
    shapes = module_shapes(arch)
    assert shapes == expected
    assert list(shapes) == list(expected)


@pytest.mark.parametrize("config", list_configs())
def test_names_map_one_to_one(config: str) -> None:
    shapes = module_shapes(load_config(config).architecture)
    originals = [to_original(name) for name in shapes]
    assert None not in originals
    assert len(set(originals)) == len(shapes)
    assert [to_diffusers(name) for name in originals if name] == list(shapes)


@pytest.mark.parametrize(
    ("original", "diffusers"),
    [
        ("blocks.7.norm3.weight", "blocks.7.norm2.weight"),
        ("blocks.7.norm3", "blocks.7.norm2"),
        ("blocks.0.cross_attn.k_img", "blocks.0.attn2.add_k_proj"),
        ("blocks.39.ffn.2.bias", "blocks.39.ffn.net.2.bias"),
        ("blocks.1.modulation", "blocks.1.scale_shift_table"),
        ("head.modulation", "scale_shift_table"),
        ("head.head.weight", "proj_out.weight"),
        ("img_emb.emb_pos", "condition_embedder.image_embedder.pos_embed"),
    ],
)
def test_names_by_hand(original: str, diffusers: str) -> None:
    assert to_diffusers(original) == diffusers
    assert to_original(diffusers) == original


@pytest.mark.parametrize(
    "name",
    ["", "blocks", "blocks.0", "blocks.0.", "blocks.x.ffn.0", "blocks.0.norm2.weight", "weight"],
)
def test_a_name_that_is_not_original_has_no_translation(name: str) -> None:
    assert to_diffusers(name) is None
