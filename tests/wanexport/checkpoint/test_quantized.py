"""Quantised checkpoints: q x scale in fp32, and no scale ever dropped."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpointfiles import I2V, Q
from commands import wanexport, wanrt, write_config
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from studies import SIZE

from wanexport.checkpoint.open import open_checkpoint
from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.errors import CheckpointError
from wanexport.model.config import Config
from wanrt.manifest.read import read_manifest

Tensors = dict[str, torch.Tensor]
FP8_MAX = 448.0


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    folder = tmp_path_factory.mktemp("plain")
    write_checkpoint(folder, I2V, "fp32", 0, layout="original")
    return {k: v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()}


def linears(tensors: Tensors) -> list[str]:
    return [n for n, t in tensors.items() if n.startswith("blocks.") and t.ndim == 2]


def fp8(tensors: Tensors) -> tuple[Tensors, Tensors]:
    """Return a bare cast of the block linears, and what it should be read as."""
    stored = {n: tensors[n].to(torch.float8_e4m3fn) for n in linears(tensors)}
    return tensors | stored, tensors | {n: t.float() for n, t in stored.items()}


def scaled(name: str) -> Callable[[Tensors], tuple[Tensors, Tensors]]:
    """Return ComfyUI's form, with its scale under one of its two names."""

    def quantise(tensors: Tensors) -> tuple[Tensors, Tensors]:
        stored, right = dict(tensors), dict(tensors)
        stored["scaled_fp8"] = torch.zeros(2).to(torch.float8_e4m3fn)
        other = "scale_input" if name == "scale_weight" else "input_scale"
        for weight in linears(tensors):
            scale = tensors[weight].abs().max() / FP8_MAX
            stored[weight] = (tensors[weight] / scale).to(torch.float8_e4m3fn)
            stored[weight.replace("weight", name)] = scale
            stored[weight.replace("weight", other)] = torch.ones(())
            right[weight] = stored[weight].float() * scale
        return stored, right

    return quantise


def rows(dtype: torch.dtype, groups: int) -> Callable[[Tensors], tuple[Tensors, Tensors]]:
    """Return LightX2V's form (one scale a row) or musubi's (several)."""

    def quantise(tensors: Tensors) -> tuple[Tensors, Tensors]:
        stored, right = dict(tensors), dict(tensors)
        top = 127.0 if dtype == torch.int8 else FP8_MAX
        for weight in linears(tensors):
            parts = tensors[weight].reshape(len(tensors[weight]), groups, -1)
            scale = parts.abs().amax(dim=2, keepdim=True) / top
            q = parts / scale
            q = (q.round() if dtype == torch.int8 else q).to(dtype)
            stored[weight] = q.reshape(tensors[weight].shape)
            key = "weight_scale" if groups == 1 else "scale_weight"
            stored[weight.replace("weight", key)] = scale[:, :, 0] if groups == 1 else scale
            right[weight] = (q.float() * scale).reshape(tensors[weight].shape)
        return stored, right

    return quantise


@pytest.mark.parametrize(
    ("quantise", "scheme"),
    [
        (fp8, "fp8"),
        (scaled("scale_weight"), "fp8_scaled"),
        (scaled("weight_scale"), "fp8_scaled"),
        (rows(torch.float8_e4m3fn, 1), "fp8_channel"),
        (rows(torch.int8, 1), "int8_channel"),
        (rows(torch.float8_e4m3fn, 2), "fp8_block"),
    ],
    ids=["bare", "comfy-2025", "comfy-2026", "lightx2v-fp8", "lightx2v-int8", "musubi"],
)
def test_reads_q_times_scale(
    quantise: Callable[[Tensors], tuple[Tensors, Tensors]],
    scheme: str,
    plain: Tensors,
    tmp_path: Path,
) -> None:
    stored, right = quantise(plain)
    path = tmp_path / "wan.safetensors"
    save_file({f"model.diffusion_model.{n}": t.contiguous() for n, t in stored.items()}, path)
    checkpoint = open_checkpoint(str(path), I2V)
    assert checkpoint.scheme() == scheme
    for ref in checkpoint.tensors.values():
        value = right[ref.name.removeprefix("model.diffusion_model.")]
        assert torch.equal(ref.read().float(), value)


def test_reads_formats_in_the_header(plain: Tensors, tmp_path: Path) -> None:
    stored, _ = scaled("weight_scale")(plain)
    layers = {n.removesuffix(".weight"): {"format": "float8_e4m3fn"} for n in linears(plain)}
    path = tmp_path / "wan.safetensors"
    save_file(stored, path, metadata={"_quantization_metadata": json.dumps({"layers": layers})})
    assert open_checkpoint(str(path), I2V).scheme() == "fp8_scaled"
    layers[linears(plain)[0].removesuffix(".weight")] = {"format": "nvfp4"}
    save_file(stored, path, metadata={"_quantization_metadata": json.dumps({"layers": layers})})
    with pytest.raises(CheckpointError, match="is quantised as nvfp4"):
        open_checkpoint(str(path), I2V)


ORIGINAL = "blocks.0.cross_attn.q"
OTHER = "blocks.1.ffn.0"
FP8, INT8 = {"format": "float8_e4m3fn"}, {"format": "int8_rowwise"}


def by_layer(plain: Tensors) -> tuple[Tensors, Tensors, dict[str, dict[str, object]]]:
    """Return one layer in fp8, one in int8, all others as they were; the values, the formats."""
    stored, right = dict(plain), dict(plain)
    weight = plain[f"{ORIGINAL}.weight"]
    scale = weight.abs().max() / FP8_MAX
    stored[f"{ORIGINAL}.weight"] = (weight / scale).to(torch.float8_e4m3fn)
    stored[f"{ORIGINAL}.weight_scale"] = scale
    right[f"{ORIGINAL}.weight"] = stored[f"{ORIGINAL}.weight"].float() * scale
    weight = plain[f"{OTHER}.weight"]
    scale = weight.abs().amax(dim=1, keepdim=True) / 127
    stored[f"{OTHER}.weight"] = (weight / scale).round().to(torch.int8)
    stored[f"{OTHER}.weight_scale"] = scale
    right[f"{OTHER}.weight"] = stored[f"{OTHER}.weight"].float() * scale
    return stored, right, {ORIGINAL: {**FP8, "full_precision_matrix_mult": True}, OTHER: {**INT8}}


def say_formats(
    form: str, stored: Tensors, formats: dict[str, dict[str, object]]
) -> tuple[Tensors, dict[str, str]]:
    """Return tensors and metadata that state layers' formats in one of ComfyUI's two ways."""
    if form == "header":
        layers = {f"model.diffusion_model.{name}": said for name, said in formats.items()}
        return stored, {"_quantization_metadata": json.dumps({"layers": layers})}
    said = {
        f"{name}.comfy_quant": torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
        for name, said in formats.items()
    }
    return stored | said, {}


def save_prefixed(stored: Tensors, metadata: dict[str, str], path: Path) -> Path:
    named = {f"model.diffusion_model.{n}": t.contiguous() for n, t in stored.items()}
    save_file(named, path, metadata=metadata)
    return path


@pytest.mark.parametrize("form", ["header", "tensors"])
def test_each_layer_has_its_own_format(form: str, plain: Tensors, tmp_path: Path) -> None:
    stored, right, formats = by_layer(plain)
    path = save_prefixed(*say_formats(form, stored, formats), tmp_path / "wan.safetensors")
    checkpoint = open_checkpoint(str(path), I2V)
    assert set((checkpoint.scheme() or "").split("+")) == {"fp8_scaled", "int8_channel"}
    for ref in checkpoint.tensors.values():
        value = right[ref.name.removeprefix("model.diffusion_model.")]
        assert torch.equal(ref.read().float(), value)


@pytest.mark.parametrize("form", ["header", "tensors"])
@pytest.mark.parametrize(
    ("formats", "message"),
    [
        ({OTHER: {"format": "nvfp4"}}, "is quantised as nvfp4"),
        ({OTHER: {"format": "int8_blockwise"}}, "is quantised as int8_blockwise"),
        ({OTHER: {**INT8, "convrot": True}}, "is quantised as int8_rowwise with convrot True"),
        ({OTHER: {**FP8}}, r"is I8; its format says float8_e4m3fn"),
        ({OTHER: {}}, "is quantised as None"),
        ({"blocks.1.ffn.2": {**FP8}}, "which is F32, not quantised"),
        ({"blocks.7.ffn.2": {**FP8}}, "which isn't in the file"),
    ],
    ids=["nvfp4", "blocks", "rotated", "contradicts", "empty", "of-plain", "of-nothing"],
)
def test_a_layer_s_format_that_is_not_its_is_refused(
    form: str, formats: dict[str, dict[str, object]], message: str, plain: Tensors, tmp_path: Path
) -> None:
    stored, _, said = by_layer(plain)
    path = save_prefixed(*say_formats(form, stored, said | formats), tmp_path / "wan.safetensors")
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(path), I2V)


@pytest.mark.parametrize(
    ("quantise", "says"),
    [
        (scaled("scale_weight"), "back in fp8, 18 % would be left of it where it changes a weight "
                                 "by 0.3 %, 49 % at 1 %"),
        (fp8, "back in fp8, nothing would be left of it where it changes a weight by 0.3 %"),
        (rows(torch.int8, 1), "back in int8, nothing would be left of it where it changes a "
                              "weight by 0.3 %, 21 % at 1 %"),
    ],
    ids=["fp8-scaled", "fp8-bare", "int8"],
)  # fmt: skip
def test_build_says_what_merging_into_such_a_base_does(
    quantise: Callable[[Tensors], tuple[Tensors, Tensors]],
    says: str,
    plain: Tensors,
    tmp_path: Path,
) -> None:
    save_file(quantise(plain)[0], tmp_path / "wan.safetensors")
    tiny = write_config(
        tmp_path / "tiny.toml", Config(name="tiny", dtype="fp32", architecture=I2V, size=SIZE)
    )
    flags = ("--config", tiny, "--base", tmp_path / "wan.safetensors", "--out", tmp_path / "out",
             "--rank", 4, "--dry-run")  # fmt: skip
    said = wanexport("build", *flags, "--mode", "merged").out
    assert "merged: kept in fp32, not made" in said
    assert says in said
    assert "merged:" not in wanexport("build", *flags, "--mode", "separate").out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({f"{ORIGINAL}.weight_scale_2": torch.ones(())}, "is quantised as NVFP4"),
        ({f"{ORIGINAL}.weight_scale_inv": torch.ones(1, 1)}, "fp8 in blocks of 128 x 128"),
        ({f"{ORIGINAL}.my_scale": torch.ones(())}, "in a way that isn't known"),
        ({f"{ORIGINAL}.weight_scale": torch.ones(3)}, r"weight_scale is \[3\]; a scale of"),
        ({"blocks.0.norm3.scale_weight": torch.ones(())}, "which is F32, not quantised"),
        ({"blocks.9.norm3.scale_weight": torch.ones(())}, "which isn't in the file"),
        ({f"{ORIGINAL}.scale_weight": torch.ones(())}, "has two scales"),
        ({f"{ORIGINAL}.weight_scale": None}, "lacks its scale"),
    ],
    ids=["nvfp4", "deepseek", "unknown", "shape", "not-quantised", "nothing", "twice", "lost"],
)
def test_refuses_what_it_can_not_decode(
    changes: dict[str, torch.Tensor | None], message: str, plain: Tensors, tmp_path: Path
) -> None:
    stored, _ = scaled("weight_scale")(plain)
    held = {name: tensor for name, tensor in (stored | changes).items() if tensor is not None}
    path = tmp_path / "wan.safetensors"
    save_file(held, path)
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(str(path), I2V)


def test_an_engine_holds_the_decoded_weights_and_says_of_what(
    plain: Tensors, tmp_path: Path
) -> None:
    stored, right = scaled("scale_weight")(plain)
    base = tmp_path / "wan_fp8_scaled.safetensors"
    save_file(stored, base)
    tiny = write_config(
        tmp_path / "tiny.toml", Config(name="tiny", dtype="fp32", architecture=I2V, size=SIZE)
    )
    out = tmp_path / "engines"
    flags = ("--config", tiny, "--mode", "full", "--base", base, "--out", out)
    assert "base: fp8_scaled" in wanexport("build", *flags, "--dry-run").out
    assert (
        f"values not looked at: {base} (wanexport inspect does)"
        in wanexport("build", *flags, "--dry-run").out
    )
    found = wanexport("build", *flags)
    assert found.code == 0, found.err
    assert "base: fp8_scaled" in found.out
    (manifest_path,) = out.glob("*/engine.json")
    (source,) = read_manifest(manifest_path.parent).sources
    assert source.scheme == "fp8_scaled"
    assert "fp8_scaled" in wanrt("info", manifest_path.parent).out
    (weights,) = (manifest_path.parent / "weights").glob("base-*")
    with safe_open(weights, "pt") as file:
        assert torch.equal(file.get_tensor(f"{ORIGINAL}.weight"), right[f"{ORIGINAL}.weight"])
    assert open_checkpoint(str(base)).tensors[Q].name == f"{ORIGINAL}.weight"
