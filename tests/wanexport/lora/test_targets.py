"""Which layers `--targets` chooses."""

from __future__ import annotations

import re

import pytest

from wanexport.errors import UsageError
from wanexport.lora.targets import TARGET_SETS, choose_targets, name_smallest, select_modules
from wanexport.model.config import load_config

I2V = load_config("wan2.1-i2v-14b-480p").architecture
T2V = load_config("wan2.1-t2v-14b-480p").architecture


@pytest.mark.parametrize(
    ("name", "per_block"),
    [("cross-attention", 6), ("self-attention", 4), ("attention", 10), ("ffn", 2), ("all", 12)],
)
def test_a_set_has_so_many_layers_of_every_block(name: str, per_block: int) -> None:
    modules = select_modules(I2V, name)
    assert len(modules) == 40 * per_block
    image = 2 if name in ("cross-attention", "attention", "all") else 0
    assert len(select_modules(T2V, name)) == 40 * (per_block - image)
    assert name_smallest(modules) == name


def test_all_is_what_the_other_sets_have_together() -> None:
    together = select_modules(I2V, *(name for name in TARGET_SETS if name != "all"))
    assert together == select_modules(I2V, "all")


@pytest.mark.parametrize(
    ("asked", "name", "label"),
    [
        ((), "cross-attention", ""),
        (("blocks.*.attn2.*",), "cross-attention", ""),
        (("self-attention", "cross-attention"), "attention", "attention"),
        (("ffn", "attention", "ffn"), "all", "all"),
        (("ffn", "cross-attention"), "cross-attention+ffn", "cross-attention+ffn"),
    ],
)
def test_targets_have_one_name_however_they_are_asked_for(
    asked: tuple[str, ...], name: str, label: str
) -> None:
    targets = choose_targets(I2V, asked)
    assert (targets.name, targets.label) == (name, label)


def test_a_pattern_chooses_layers_outside_the_blocks_too() -> None:
    targets = choose_targets(I2V, ("blocks.[0-9].attn2.to_[qk]", "proj_out"))
    assert len(targets.modules) == 21
    assert targets.modules[-1] == "proj_out"
    assert targets.name == "blocks.[0-9].attn2.to_[qk],proj_out"
    assert targets.label == choose_targets(I2V, ("proj_out", "blocks.?.attn2.to_[qk]")).label
    assert targets.label != choose_targets(I2V, ("proj_out",)).label


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("to_q", r"patterns match whole names: write '\*\.to_q'"),
        ("attn2.to_q", r"write '\*\.attn2\.to_q'"),
        ("cross_attention", "the nearest is cross-attention"),
        ("blocks.40.attn2.to_q", "the nearest is blocks.4.attn2.to_q"),
        ("blocks.0.norm2", "the nearest is blocks.0"),
    ],
)
def test_a_pattern_that_chooses_nothing_is_refused_with_the_nearest(
    pattern: str, hint: str
) -> None:
    with pytest.raises(UsageError, match="matches no linear layer") as caught:
        choose_targets(I2V, ("all", pattern))
    assert re.search(hint, caught.value.hint), caught.value.hint
