"""`--targets` through whole engines."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from commands import wanexport
from folders import manifests
from studies import I2V, build

from wanexport.errors import AdapterError
from wanexport.lora.find import LoraArgument
from wanexport.lora.random_adapter import seeded_adapter
from wanexport.lora.targets import select_modules
from wanexport.model.names import module_shapes

CROSS, SELF, EVERY = (
    select_modules(I2V, name) for name in ("cross-attention", "self-attention", "all")
)


def test_seeded_adapters_sit_on_what_is_asked_for(tmp_path: Path) -> None:
    built = build(tmp_path, ranks=(4,), targets=("all",))
    for engine, manifest in zip(
        sorted(built, key=lambda e: e.path.name), manifests(tmp_path), strict=True
    ):
        found = engine.verification
        assert found is not None
        assert found.error is not None
        assert found.error < 1e-6
        if manifest.mode == "full":
            assert (manifest.targets, manifest.target_set) == ((), None)
            continue
        assert manifest.name.endswith("-r4-all")
        assert manifest.target_set == "all"
        assert sorted(manifest.targets) == sorted(EVERY)
        assert found.adapter_effect is not None
        assert found.adapter_effect > 100 * found.error
    inputs = manifests(tmp_path)[-1].adapter_inputs
    assert {spec.module for spec in inputs} == set(EVERY)


def test_engines_of_two_target_sets_stand_beside_each_other(tmp_path: Path) -> None:
    for targets in ((), ("all",), ("blocks.0.ffn.*",)):
        build(tmp_path, ranks=(4,), targets=targets, modes=("separate",), verify=False)
    found = {m.target_set: len(m.targets) for m in manifests(tmp_path)}
    assert found == {"cross-attention": 12, "all": 24, "blocks.0.ffn.*": 2}


def test_a_swappable_engine_takes_more_layers_than_its_lora_has(tmp_path: Path) -> None:
    lora = _lora(tmp_path, CROSS[:3])
    (engine,) = build(
        tmp_path / "engines", loras=(LoraArgument(str(lora)),), targets=("attention",),
        modes=("swappable",),
    )  # fmt: skip
    (manifest,) = manifests(tmp_path / "engines")
    assert manifest.name.endswith("-r2-style-attention")
    assert manifest.target_set == "attention"
    assert set(manifest.targets) == {*CROSS, *SELF}
    assert engine.verification is not None
    assert engine.verification.error is not None


def test_a_lora_brings_its_own_layers_unless_some_are_asked_for(tmp_path: Path) -> None:
    lora = _lora(tmp_path, SELF[:2])
    options: dict[str, Any] = {
        "loras": (LoraArgument(str(lora)),),
        "modes": ("swappable",),
        "verify": False,
    }
    build(tmp_path / "engines", **options)
    (manifest,) = manifests(tmp_path / "engines")
    assert manifest.target_set is None
    assert set(manifest.targets) == set(SELF[:2])
    with pytest.raises(AdapterError, match="outside of --targets") as caught:
        build(tmp_path / "others", targets=("cross-attention",), **options)
    assert caught.value.hint == "add --targets attention"


def test_the_flag_that_a_refused_lora_names_makes_an_engine_that_takes_it(tmp_path: Path) -> None:
    """The likeliest refusal of all: a community LoRA, and an engine of the default layers."""
    lora = _lora(tmp_path, (*SELF, *CROSS))
    common = ("--config", _tiny(tmp_path), "--base", "random", "--verify", "none")
    assert wanexport("build", "--rank", 4, *common, "--mode", "swappable",
                     "--out", tmp_path / "engines").code == 0  # fmt: skip
    (first,) = manifests(tmp_path / "engines")
    made = tmp_path / "canonical.safetensors"
    refused = wanexport("adapter", lora, "--for", tmp_path / "engines" / first.name, "-o", made)
    assert refused.code == 1
    assert "has no inputs for blocks.0.attn1.to_k and 7 more" in refused.err
    hint = refused.err.split("hint: ")[1].split(": ", 1)[1].strip()
    argv = shlex.split(hint)[1:]
    assert argv == ["build", "--mode", "swappable", "--targets", "attention"]
    again = wanexport(*argv, "--rank", 4, *common, "--out", tmp_path / "wider")
    assert again.code == 0, again.err
    (wider,) = manifests(tmp_path / "wider")
    taken = wanexport("adapter", lora, "--for", tmp_path / "wider" / wider.name, "-o", made)
    assert taken.code == 0, taken.err


def test_targets_without_effect_are_refused(tmp_path: Path) -> None:
    for flags in (
        ("--mode", "full", "--targets", "all"),
        ("--mode", "separate", "--lora", tmp_path / "x.safetensors", "--targets", "all"),
    ):
        outcome = wanexport("build", *flags)
        assert outcome.code == 2
        assert "--targets has no effect on mode" in outcome.err


def _lora(folder: Path, modules: Sequence[str]) -> Path:
    path = folder / "style.safetensors"
    seeded_adapter(path, module_shapes(I2V), modules, 2, seed=1)
    return path


def _tiny(folder: Path) -> Path:
    sizes = I2V.model_dump(exclude_none=True)
    path = folder / "tiny.toml"
    numbers = {key: value for key, value in sizes.items() if type(value) is int}
    lines = [f"{key} = {value}" for key, value in numbers.items()]
    size = ["[size]", "width = 96", "height = 64", "frames = 5"]
    path.write_text("\n".join(['name = "tiny"', "[architecture]", *lines, *size]))
    return path
