"""Wan2.2's two experts: of whose checkpoint and LoRA each engine is made; one graph for both."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import Outcome, wanexport, wanrt, write_config
from folders import plan_of, sample
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from studies import I2V, build, config

from wanexport.build.recipe import Built
from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.lora.find import LoraArgument
from wanexport.model.config import Experts, load_config
from wanexport.tensorrt.settings import PlanSettings
from wanrt.engine.adapter import read_adapter
from wanrt.manifest.read import read_manifest

# as Wan2.2's image-to-video models: 36 channels, no attention to an image
WAN22 = I2V.model_copy(update={"image_dim": None, "added_kv_proj_dim": None, "num_layers": 1})
PAIR = Experts(boundary=0.9, steps=40, shift=5.0)
Q = "blocks.0.attn2.to_q"
LAYOUTS = {"original": ("high_noise_model", "low_noise_model"),
           "diffusers": ("transformer", "transformer_2")}  # fmt: skip


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A model of two experts in each layout."""
    root = tmp_path_factory.mktemp("pairs")
    for layout, names in LAYOUTS.items():
        for seed, name in enumerate(names):
            write_checkpoint(root / layout / name, WAN22, "fp32", seed, layout=layout)  # type: ignore[arg-type]
    return {layout: root / layout for layout in LAYOUTS}


def products(prefix: str, value: float, names: tuple[str, ...] = (Q,)) -> dict[str, torch.Tensor]:
    return {
        f"{prefix}{name}.lora_{part}.weight": torch.full(shape, value)
        for name in names
        for part, shape in (("A", (2, WAN22.width)), ("B", (WAN22.width, 2)))
    }


def make(out: Path, base: Path | str, **options: Any) -> list[Built]:
    chosen = {"modes": ("full",), "verify": False, "expert": "both"} | options
    return build(out, WAN22, base=str(base), experts=PAIR, **chosen)


def merged(engine: Built) -> torch.Tensor:
    return load_file(engine.path / "weights" / "merged.safetensors")[f"{Q}.weight"]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_experts_share_one_graph(layout: str, pairs: dict[str, Path], tmp_path: Path) -> None:
    made = make(tmp_path, pairs[layout])
    manifests = [read_manifest(engine.path) for engine in made]
    assert [m.expert for m in manifests] == ["high", "low"]
    assert [m.compared_by["expert"] for m in manifests] == ["high", "low"]
    assert manifests[0].forward.sha256 == manifests[1].forward.sha256
    for manifest, name in zip(manifests, LAYOUTS[layout], strict=True):
        assert {Path(source.path).parent.name for source in manifest.sources} == {name}
    high, low = (sample(engine.path) for engine in made)
    assert not (high == low).all()
    assert "high-noise expert" in wanrt("info", made[0].path).out


@pytest.mark.parametrize("roots", [LAYOUTS["diffusers"], LAYOUTS["original"]], ids=LAYOUTS)
def test_a_lora_of_both_experts_is_split(
    roots: tuple[str, str], pairs: dict[str, Path], tmp_path: Path
) -> None:
    path = tmp_path / "both.safetensors"
    settings = {f"{root}.{key}": value for root, alpha in zip(roots, (2, 4), strict=True)
                for key, value in (("r", 2), ("lora_alpha", alpha))}  # fmt: skip
    save_file(
        products(f"{roots[0]}.", 0.5) | products(f"{roots[1]}.", 1.0),
        path,
        {"lora_adapter_metadata": json.dumps(settings)},
    )
    made = make(tmp_path, pairs["diffusers"], modes=("merged",), loras=(LoraArgument(str(path)),))
    for engine, name, gain in zip(made, LAYOUTS["diffusers"], (0.5, 4.0), strict=True):
        (file,) = (pairs["diffusers"] / name).glob("*.safetensors")
        change = merged(engine) - load_file(file)[f"{Q}.weight"]
        assert torch.allclose(change, torch.full_like(change, gain), atol=1e-5)


def test_a_file_for_one_expert_is_for_that_alone(pairs: dict[str, Path], tmp_path: Path) -> None:
    files = {}
    for expert, value in (("high", 0.5), ("low", 1.0)):
        files[expert] = tmp_path / f"{expert}.safetensors"
        save_file(products("transformer.", value), files[expert])
    loras = tuple(LoraArgument(str(files[e]), 1.0, e) for e in ("high", "low"))
    made = make(tmp_path, pairs["original"], modes=("merged",), loras=loras)
    assert [Path(read_manifest(e.path).sources[-1].path) for e in made] == [*files.values()]


def ask(tmp_path: Path, *options: object, experts: Experts | None = PAIR) -> Outcome:
    written = write_config(tmp_path / "pair.toml", config(WAN22, experts=experts))
    return wanexport("build", "--config", written, "--out", tmp_path / "out", "--dry-run", *options)


def test_what_is_missing_or_has_no_effect_is_refused(
    pairs: dict[str, Path], tmp_path: Path
) -> None:
    full = ("--mode", "full", "--base")
    pair = pairs["original"]
    refusals = {
        "add --expert high, low or both": ask(tmp_path, *full, pair),
        "isn't a folder of two experts": ask(tmp_path, *full, pair / "low_noise_model",
                                             "--expert", "both"),
        "is the other expert": ask(tmp_path, *full, pair / "low_noise_model", "--expert", "high"),
        "--expert has no effect": ask(tmp_path, *full, pair, "--expert", "low", experts=None),
        "add --expert both": ask(tmp_path, "--mode", "merged", "--base", pair, "--expert", "low",
                                 "--lora-high", "x"),
        "--expert high, low or both chooses": ask(tmp_path, *full, pair, experts=None),
    }  # fmt: skip
    for said, refused in refusals.items():
        assert refused.code in (1, 2)
        assert said in refused.err
    assert ask(tmp_path, *full, pair / "high_noise_model", "--expert", "high").code == 0


def test_image_keys_are_skipped_where_that_is_asked(pairs: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / "wan21.safetensors"
    image = "blocks.0.attn2.add_k_proj"
    save_file(products("transformer.", 1.0, (Q, image)), path)
    options = ("--mode", "merged", "--base", pairs["original"], "--lora", path, "--expert", "high")
    refused = ask(tmp_path, *options)
    assert refused.code == 1
    assert "Wan2.2" in refused.err
    assert "--skip-image-keys" in refused.err
    assert ask(tmp_path, *options, "--skip-image-keys").code == 0
    (made,) = make(tmp_path, pairs["original"], modes=("merged",), expert="high",
                   loras=(LoraArgument(str(path)),), skip_image_keys=True)  # fmt: skip
    manifest = read_manifest(made.path)
    assert image in manifest.inputs["skipped keys"]
    assert manifest.targets == (Q,)


@pytest.mark.parametrize("root", [*LAYOUTS["original"], "transformer_2"])
def test_one_expert_s_lora_is_named_where_none_is_asked_for(root: str, tmp_path: Path) -> None:
    path = tmp_path / "one.safetensors"
    save_file(products(f"{root}.", 1.0), path)
    options = ("--mode", "merged", "--base", "random", "--lora", path)
    refused = ask(tmp_path, *options, experts=None)
    assert "high-noise expert" in refused.err if "high" in root else "low-noise" in refused.err
    assert "--expert high, or low, names one" in refused.err
    expert = "high" if "high" in root else "low"
    assert ask(tmp_path, *options, "--expert", expert).code == 0
    other = ask(tmp_path, *options, "--expert", "low" if expert == "high" else "high")
    assert f"it is the {expert}-noise expert's" in other.err


@pytest.mark.usefixtures("fake_builder")
@pytest.mark.parametrize("mode", ["full", "swappable"])
def test_both_experts_share_one_plan(mode: str, pairs: dict[str, Path], tmp_path: Path) -> None:
    """What a refit may replace doesn't count, so TensorRT builds once for both."""
    settings = PlanSettings("tensorrt", refit="all", control=False)
    ranks = () if mode == "full" else (2,)
    made = make(tmp_path, pairs["original"], modes=(mode,), ranks=ranks, dtype="fp16",
                tensorrt=settings)  # fmt: skip
    manifests = [read_manifest(engine.path) for engine in made]
    high, low = (plan_of(manifest) for manifest in manifests)
    assert high.key == low.key
    assert manifests[0].forward.sha256 == manifests[1].forward.sha256
    assert (made[0].path / high.file).samefile(made[1].path / low.file)
    assert len(list((tmp_path / ".plans").glob("*.plan"))) == 1
    assert {source.path for source in manifests[0].sources} != {
        source.path for source in manifests[1].sources
    }


def test_an_adapter_is_of_its_engine_s_expert(pairs: dict[str, Path], tmp_path: Path) -> None:
    path, image = tmp_path / "both.safetensors", "blocks.0.attn2.add_k_proj"
    save_file(products("transformer.", 0.5, (Q, image)) | products("transformer_2.", 1.0), path)
    made = make(tmp_path, pairs["original"], modes=("swappable",),
                loras=(LoraArgument(str(path)),), skip_image_keys=True)  # fmt: skip
    for engine, value in zip(made, (0.5, 1.0), strict=True):
        out = tmp_path / f"{value}.safetensors"
        convert = ("adapter", path, "--for", engine.path, "-o", out)
        if value == 0.5:  # the high-noise half has a Wan2.1 LoRA's keys for an image
            refused = wanexport(*convert)
            assert refused.code == 1
            assert "--skip-image-keys" in refused.err
        assert wanexport(*convert, "--skip-image-keys").code == 0
        a = load_file(out)[f"{Q}.lora_A"]
        assert torch.equal(a, torch.full_like(a, value))
        with safe_open(out, "pt") as file:
            assert image in file.metadata()["skipped_keys"]
        assert read_adapter(out, engine.path, read_manifest(engine.path))


def test_steps_are_shared_at_the_boundary() -> None:
    shipped = {name: load_config(f"wan2.2-{name}-a14b-480p").experts for name in ("t2v", "i2v")}
    assert {n: (e.high_steps, e.low_steps) for n, e in shipped.items() if e} == {
        "t2v": (26, 14), "i2v": (15, 25),
    }  # fmt: skip
