"""What `wanexport inspect` says of LoRA files and checkpoints."""

from __future__ import annotations

import json
from pathlib import Path

import hubcache
import pytest
import torch
from checkpointfiles import write_hollow
from commands import wanexport, write_config
from hubcache import add_files
from lorafiles import (
    ARCH,
    CROSS,
    DIALECTS,
    SHAPES,
    T2V_ARCH,
    TEXT_CROSS,
    make_lora,
    settings,
)
from safetensors.torch import save_file

from wanexport.errors import WanExportError
from wanexport.inspection.describe import describe_file
from wanexport.inspection.text import format_description
from wanexport.lora.random_adapter import seeded_adapter
from wanexport.lora.targets import select_modules
from wanexport.model.config import Config, Experts, Size, load_config
from wanexport.model.names import module_shapes

TINY = Config(name="tiny", architecture=ARCH, size=Size(width=64, height=64, frames=5))
I2V_14B = load_config("wan2.1-i2v-14b-480p").architecture

hub = hubcache.hub  # fixture


def inspect(file: object, *flags: object) -> dict[str, str]:
    """Return what the command says: the file's line as `title`, the others by their first word."""
    code, out, err = wanexport("inspect", file, *flags)
    assert (code, err) == (0, "")
    title, *lines = out.splitlines()
    split = (line.strip().split("  ", 1) for line in lines if "  " in line.strip())
    return {"title": title} | {key: value.strip() for key, value in split}


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return write_config(tmp_path / "tiny.toml", TINY)


WRITERS = {
    "A-diffusers": "diffusers (transformer.)",
    "A-diffusers-named": "diffusers (transformer.)",
    "A-diffusers-down-up": "diffusers (transformer.)",
    "A'-no-prefix": "diffusers names without prefix",
    "raw-peft": "PEFT (base_model.model.)",
    "raw-peft-original": "PEFT (base_model.model.)",
    "B-comfy-peft": "ComfyUI (diffusion_model.)",
    "B-model-prefix": "ComfyUI (model.diffusion_model.)",
    "C-comfy-down-up": "ComfyUI (diffusion_model.)",
    "C-dotted": "ComfyUI (diffusion_model.)",
    "C-unet": "diffusers (unet.)",
    "D-musubi": "kohya/musubi (lora_unet_)",
    "D-diffusers-names": "kohya/musubi (lora_unet_)",
    "D'-videox-fun": "VideoX-Fun (lora_unet__)",
    "E-diffsynth": "original names without prefix, DiffSynth (lora_A.NAME)",  # alpha has no NAME
    "original-no-prefix": "original names without prefix",
    "lycoris": "LyCORIS (lycoris_)",
}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_says_the_same_of_every_dialect(dialect: str, tmp_path: Path, tiny: Path) -> None:
    made = make_lora(dialect, CROSS, rank=4, alpha=2.0)
    found = inspect(made.save(tmp_path / "lora.safetensors"), "--config", tiny)
    names = ("add_k_proj", "add_v_proj", "to_k", "to_out.0", "to_q", "to_v")
    assert found == {
        "title": str(tmp_path / "lora.safetensors"),
        "LoRA": f"{WRITERS[dialect]} + alpha",
        "tensors": "36 (36 F32), 12,300 parameters",
        "fits": "tiny",
        "targets": ", ".join(f"attn2.{name} x2" for name in names),
        "rank": "4",
        "alpha": "2",
        "scale": "0.5",
        "low-rank": "12 changes",
    }


@pytest.mark.parametrize("rslora", [False, True])
def test_alpha_may_be_the_metadata_s(rslora: bool, tmp_path: Path, tiny: Path) -> None:
    made = make_lora("A-diffusers", CROSS, rank=4)
    made.metadata = settings(r=4, lora_alpha=8, use_rslora=rslora)
    found = inspect(made.save(tmp_path / "lora.safetensors"), "--config", tiny)
    assert (found["alpha"], found["scale"]) == ("8", "4" if rslora else "2")
    assert "+ alpha" not in found["LoRA"]  # it has no such tensors


def test_alpha_may_lie_beside_peft_s_file(tmp_path: Path, tiny: Path) -> None:
    made = make_lora("raw-peft", CROSS, rank=4)
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 4, "lora_alpha": 2}))
    found = inspect(made.save(tmp_path / "adapter_model.safetensors"), "--config", tiny)
    assert (found["alpha"], found["scale"]) == ("2", "0.5")


def test_an_unknown_alpha_is_not_made_up(tmp_path: Path, tiny: Path) -> None:
    made = make_lora("A-diffusers", CROSS[:1])
    found = inspect(made.save(tmp_path / "lora.safetensors"), "--config", tiny)
    assert "alpha" not in found
    assert (found["scale"], found["low-rank"]) == ("1", "1 change")


@pytest.mark.parametrize(
    ("heads", "near", "more"),
    [(36, "14b", 237), (14, "1.3b", 178)],  # 10 of the 40 blocks are one problem there
)
def test_a_lora_that_fits_nothing_is_held_against_the_nearest(
    heads: int, near: str, more: int, tmp_path: Path
) -> None:
    width = heads * 128
    arch = I2V_14B.model_copy(update={"num_attention_heads": heads, "added_kv_proj_dim": width})
    path = tmp_path / "lora.safetensors"
    seeded_adapter(path, module_shapes(arch), select_modules(arch, "cross-attention"), 1, seed=0)
    code, out, _ = wanexport("inspect", path)
    assert code == 1
    (fits,) = (line for line in out.splitlines() if line.startswith("  fits "))
    assert near in fits.partition("no configuration; the nearest is ")[2]
    problems = [line for line in out.splitlines() if line.startswith("  not applied")]
    assert len(problems) == 3
    assert f"lora_A.weight is [1, {width}], it should be [1, " in problems[-1]
    assert out.endswith(f"\n  and {more} more problems\n")


def test_a_checkpoint_s_architecture_is_told(tmp_path: Path, tiny: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in SHAPES.items()}, path)
    model = (
        "2 layers, width 128 in 1 head, ffn 64, channels 36 to 16, text 32, 257 image tokens of 40"
    )
    found = inspect(path, "--config", tiny)
    assert (found["model"], found["fits"]) == (model, "tiny")
    assert "differs" not in found
    found = inspect(path)
    assert found["model"] == model
    assert found["fits"] == "no configuration"  # none is near: all differ in more than two sizes
    assert "differs" not in found


@pytest.mark.parametrize(
    ("changes", "fits", "differs"),
    [
        (
            {"num_layers": 5, "ffn_dim": 1024},
            "no configuration; the nearest is wan2.1-i2v-demo",
            "num_layers: 5, not 4; ffn_dim: 1024, not 1408",
        ),
        ({"num_layers": 5, "ffn_dim": 1024, "text_dim": 64}, "no configuration", None),
    ],
    ids=["two-sizes", "three-sizes"],
)
def test_a_configuration_is_near_that_differs_in_two_sizes(
    changes: dict[str, int], fits: str, differs: str | None, tmp_path: Path
) -> None:
    arch = load_config("wan2.1-i2v-demo").architecture.model_copy(update=changes)
    write_hollow(tmp_path / "m.safetensors", arch)
    found = inspect(tmp_path / "m.safetensors", "--headers-only")
    assert (found["fits"], found.get("differs")) == (fits, differs)


def test_a_lora_of_other_sizes_is_not_held_against_what_is_far(tmp_path: Path) -> None:
    path = make_lora("D-musubi", CROSS).save(tmp_path / "a.safetensors")
    code, out, _ = wanexport("inspect", path)
    assert code == 1
    assert "fits        no configuration\n" in out
    assert "not applied: its matrices have other sizes than any shipped configuration's" in out
    assert "hint: give its model's configuration with --config FILE" in out


def test_what_is_read_of_a_quantised_pipeline_is_told(tmp_path: Path, tiny: Path) -> None:
    prefix, weight = "model.diffusion_model.", "blocks.0.ffn.net.2.weight"
    held = {prefix + name: torch.zeros(shape) for name, shape in SHAPES.items()}
    held[prefix + weight] = held[prefix + weight].to(torch.float8_e4m3fn)
    held |= {f"{prefix}{weight}_scale": torch.ones(()), "vae.conv1.weight": torch.ones(1)}
    save_file(held, tmp_path / "aio.safetensors")
    found = inspect(tmp_path / "aio.safetensors", "--config", tiny)
    assert found["quantised"] == "fp8_scaled"
    assert found["prefixes"] == f"{prefix} taken off"
    assert found["left aside"] == "vae x1"


def test_files_of_the_hub_s_cache_go_by_their_names_there(
    hub: Path, tmp_path: Path, tiny: Path
) -> None:
    lora = make_lora("D-musubi", CROSS).save(tmp_path / "lora.safetensors")
    save_file(
        {name: torch.zeros(shape) for name, shape in SHAPES.items()}, tmp_path / "m.safetensors"
    )
    add_files(hub, "org/style", {"pytorch_lora_weights.safetensors": lora})
    weights = "transformer/diffusion_pytorch_model.safetensors"
    add_files(hub, "org/tuned", {weights: tmp_path / "m.safetensors"})
    where = "(of the Hugging Face cache)"
    found = inspect("org/style", "--config", tiny)
    assert found["title"] == f"org/style/pytorch_lora_weights.safetensors {where}"
    found = inspect("org/tuned", "--config", tiny)
    assert (found["title"], found["fits"]) == (f"org/tuned/transformer {where}", "tiny")


def test_describes_a_lora(tmp_path: Path) -> None:
    made = make_lora("D-musubi", CROSS, rank=4, alpha=2.0)
    made.tensors["lora_unet_blocks_0_norm3.diff"] = torch.ones(128)
    made.tensors["lora_unet_blocks_7_ffn_0.lora_down.weight"] = torch.ones(4, 128)
    found = describe_file(made.save(tmp_path / "lora.safetensors"), TINY)
    assert (found.what, found.dialect) == ("LoRA", "kohya/musubi (lora_unet_) + alpha + diff")
    assert (found.tensors, found.dtypes) == (38, {"F32": 38})
    assert found.targets is not None
    assert found.targets["attn2.to_q"] == 2
    assert (found.ranks, found.alphas, found.scales) == ((4, 4), (2.0, 2.0), (0.5, 0.5))
    assert (len(found.low_rank), found.rest) == (12, ("diff of blocks.0.norm2.weight",))
    assert (found.fits, found.config) == ((), "tiny")
    assert [problem.keys for problem in found.problems] == [
        ("lora_unet_blocks_7_ffn_0.lora_down.weight",)
    ]
    text = format_description(found)
    for part in ("attn2.add_k_proj x2", "scale       0.5", "of 2 blocks", "not tiny"):
        assert part in text


def test_describes_what_a_lora_fits(tmp_path: Path) -> None:
    shapes = module_shapes(load_config("wan2.1-t2v-1.3b-480p").architecture)
    path = tmp_path / "lora.safetensors"
    seeded_adapter(path, shapes, ["blocks.29.attn2.to_q"], 4, seed=1)
    found = describe_file(path)
    assert found.fits == ("wan2.1-fun-1.3b-inp-480p", "wan2.1-t2v-1.3b-480p")
    assert found.random_weights
    assert not found.problems
    wrong = describe_file(path, load_config("wan2.1-t2v-14b-480p"))
    assert wrong.fits == found.fits
    assert "not wan2.1-t2v-14b-480p, but wan2.1-fun-1.3b-inp-480p, wan2.1-t2v-1.3b" in (
        format_description(wrong)
    )
    assert "[4, 5120]" in wrong.problems[0].message


def test_describes_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({name: torch.zeros(shape) for name, shape in SHAPES.items()}, path)
    found = describe_file(path, TINY)
    assert (found.what, found.dialect) == ("checkpoint", "diffusers names")
    assert found.fits == ("tiny",)
    assert found.tensors == len(SHAPES)
    other = describe_file(path, load_config("wan2.1-t2v-1.3b-480p"))
    assert other.fits == ()
    assert other.differences["num_layers"] == (2, 30)
    text = format_description(other)
    assert "fits        not wan2.1-t2v-1.3b-480p" in text
    assert "differs     num_layers: 2, not 30; num_attention_heads: 1, not 12; " in text
    assert "image_dim: 40, not none" in text


def test_describes_half_a_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "part.safetensors"
    save_file({"proj_out.weight": torch.zeros(64, 128)}, path)
    found = describe_file(path)
    assert (found.what, found.dialect) == ("checkpoint", "not a whole Wan2.1 DiT")
    assert "has no tensor patch_embedding.weight" in found.problems[0].message


def test_refuses_what_it_cannot_read(tmp_path: Path) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(WanExportError, match="not a whole safetensors file"):
        describe_file(tmp_path / "x.safetensors")


def test_values_that_overflow_are_named(tmp_path: Path, tiny: Path) -> None:
    made = make_lora("A-diffusers", CROSS)
    made.tensors[f"transformer.{CROSS[1]}.lora_B.weight"][0, 0] = float("nan")
    code, out, _ = wanexport("inspect", made.save(tmp_path / "a.safetensors"), "--config", tiny)
    assert code == 1
    assert f"transformer.{CROSS[1]}.lora_B.weight holds values that aren't finite" in out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_s_values_are_read(
    dtype: torch.dtype, value: float, tmp_path: Path, tiny: Path
) -> None:
    if dtype == torch.float8_e4m3fn:
        value = float("nan")  # it has no infinity
    name, path = "blocks.1.ffn.net.0.proj.weight", tmp_path / "m.safetensors"
    held = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    held[name] = held[name].to(dtype)
    save_file(held, path)
    assert "values" not in inspect(path, "--config", tiny)
    held[name][-1, -1] = value
    save_file(held, path)
    code, out, err = wanexport("inspect", path, "--config", tiny)
    assert (code, err) == (1, "")
    assert f"1 tensors hold values that aren't finite: {name}" in out
    assert "hint: usually the training diverged" in out
    found = inspect(path, "--config", tiny, "--headers-only")
    assert found["values"] == "not read, so NaN isn't seen"


def test_dora_says_what_a_strength_means(tmp_path: Path, tiny: Path) -> None:
    made = make_lora("B-comfy-peft", CROSS[:1])
    key = next(iter(made.tensors)).removesuffix("lora_A.weight")
    made.tensors[f"{key}dora_scale"] = torch.ones(SHAPES[f"{CROSS[0]}.weight"][0])
    found = inspect(made.save(tmp_path / "a.safetensors"), "--config", tiny)
    assert found["strength"].startswith("DoRA at strength t is W + t (DoRA(W) - W)")


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"<!DOCTYPE html>", "is a web page"), (b"\xff" * 64, "not a whole safetensors"),
     (b"\x80\x02}q\x00.", "is a pickle"), (None, "doesn't exist")],
    ids=["page", "noise", "pickle", "missing"],
)  # fmt: skip
def test_json_says_why_a_file_cannot_be_read(
    content: bytes | None, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "x.safetensors"
    if content is not None:
        path.write_bytes(content)
    code, out, err = wanexport("inspect", path, "--json")
    held = json.loads(out)
    assert (code, err) == (1, "")
    assert held["path"] == str(path)
    assert said in held["error"]
    assert held["error"] in wanexport("inspect", path).err


WAN22 = TINY.model_copy(
    update={
        "name": "pair",
        "architecture": T2V_ARCH,
        "experts": Experts(boundary=0.9, steps=40, shift=5.0),
    }
)


@pytest.fixture
def pair(tmp_path: Path) -> Path:
    return write_config(tmp_path / "pair.toml", WAN22)


def test_one_expert_s_half_is_looked_at(tmp_path: Path, pair: Path) -> None:
    high = make_lora("A-diffusers", TEXT_CROSS, rank=4)
    low = make_lora("A-diffusers", TEXT_CROSS[:1], rank=2)
    for name, tensor in low.tensors.items():
        high.tensors[name.replace("transformer.", "transformer_2.", 1)] = tensor
    path = high.save(tmp_path / "both.safetensors")
    code, out, _ = wanexport("inspect", path, "--config", pair)
    assert code == 1
    assert "--expert high, or low, names one" in out
    found = [inspect(path, "--config", pair, "--expert", expert) for expert in ("high", "low")]
    assert [f["rank"] for f in found] == ["4", "2"]
    assert [f["low-rank"] for f in found] == ["8 changes", "1 change"]
    assert "transformer_2." in found[0]["skipped"]


def test_one_expert_of_a_folder_is_looked_at(tmp_path: Path, pair: Path) -> None:
    for name, layers in (("high_noise_model", 2), ("low_noise_model", 1)):
        (tmp_path / name).mkdir()
        arch = T2V_ARCH.model_copy(update={"num_layers": layers})
        write_hollow(tmp_path / name / "diffusion_pytorch_model.safetensors", arch)
    assert wanexport("inspect", tmp_path, "--config", pair).code == 1
    found = inspect(tmp_path, "--config", pair, "--expert", "high")
    assert (found["fits"], found["title"]) == ("pair", str(tmp_path / "high_noise_model"))
    assert inspect(tmp_path, "--config", pair, "--expert", "low")["fits"] == "not pair"


def test_image_keys_are_skipped_as_build_does(tmp_path: Path, pair: Path, tiny: Path) -> None:
    path = make_lora("D-musubi", CROSS, alpha=4.0).save(tmp_path / "wan21.safetensors")
    code, out, _ = wanexport("inspect", path, "--config", pair)
    assert code == 1
    assert "--skip-image-keys" in out
    found = inspect(path, "--config", pair, "--skip-image-keys")
    assert (found["fits"], found["low-rank"]) == ("pair", "8 changes")
    assert "cross_attn_k_img" in found["skipped"]
    assert "skipped" not in inspect(path, "--config", tiny, "--skip-image-keys")


def test_flags_without_effect_are_refused(tmp_path: Path, tiny: Path) -> None:
    write_hollow(tmp_path / "m.safetensors", ARCH)
    for flags, said in (
        (("--expert", "high"), "--expert has no effect: tiny is one model"),
        (("--skip-image-keys",), "--skip-image-keys has no effect on a checkpoint"),
    ):
        refused = wanexport("inspect", tmp_path / "m.safetensors", "--config", tiny, *flags)
        assert refused.code == 2
        assert said in refused.err


@pytest.mark.parametrize("value", [1.0, float("nan")])
def test_json_says_all_of_it(value: float, tmp_path: Path, tiny: Path) -> None:
    made = make_lora("A-diffusers", CROSS)
    made.tensors[f"transformer.{CROSS[1]}.lora_B.weight"][0, 0] = value
    path = made.save(tmp_path / "a.safetensors")
    code, out, err = wanexport("inspect", path, "--config", tiny, "--json")
    held = json.loads(out)
    assert (code, err) == (int(value != value), "")
    assert held["fits"] == ["tiny"]
    assert held["notes"] == ["the file states no alpha: scale 1"]
    assert len(held["problems"]) == code
