"""Which of a file's tensors are taken: wrappers come off, other parts are left aside by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from checkpointfiles import I2V, merged
from safetensors.numpy import save_file

from wanexport.checkpoint.open import open_checkpoint
from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.errors import CheckpointError

Tensors = dict[str, np.ndarray]
ONES = np.ones((4, 4), np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    folder = tmp_path_factory.mktemp("whole")
    write_checkpoint(folder, I2V, "fp32", 0, layout="original")
    return merged(folder)


def write(path: Path, tensors: Tensors) -> str:
    save_file(tensors, path)
    return str(path)


@pytest.mark.parametrize(
    "prefix",
    ["model.", "module.", "_orig_mod.", "transformer.", "pipe.dit.", "dit.", "net.",
     "_checkpoint_wrapped_module.", "module._orig_mod.", "some.trainer.of.mine.",
     "low_noise_model.", "high_noise_model.", "transformer_2."],
)  # fmt: skip
def test_a_common_prefix_comes_off(prefix: str, whole: Tensors, tmp_path: Path) -> None:
    path = write(tmp_path / "wan.safetensors", {prefix + n: t for n, t in whole.items()})
    checkpoint = open_checkpoint(path, I2V)
    assert "".join(checkpoint.stripped)
    assert all(part in prefix for part in checkpoint.stripped)
    for ref in checkpoint.tensors.values():
        assert np.array_equal(ref.read().numpy(), whole[ref.name.removeprefix(prefix)])


def test_wrappers_inside_names_come_off(whole: Tensors, tmp_path: Path) -> None:
    inner = {n.replace("self_attn.", "_checkpoint_wrapped_module.self_attn."): t
             for n, t in whole.items()}  # fmt: skip
    checkpoint = open_checkpoint(write(tmp_path / "wan.safetensors", inner), I2V)
    assert checkpoint.stripped == ("_checkpoint_wrapped_module.",)


def test_a_whole_pipeline_s_dit_is_taken(whole: Tensors, tmp_path: Path) -> None:
    pipeline = {f"model.diffusion_model.{name}": tensor for name, tensor in whole.items()} | {
        "vae.encoder.conv1.weight": ONES,
        "text_encoders.umt5xxl.shared.weight": ONES,
        "cond_stage_model.marker": ONES[0, :1],
    }
    checkpoint = open_checkpoint(write(tmp_path / "aio.safetensors", pipeline), I2V)
    assert len(checkpoint.tensors) == len(whole)
    assert checkpoint.left_aside == {"cond_stage_model": 1, "text_encoders": 1, "vae": 1}


def test_a_stray_marker_is_left_aside(whole: Tensors, tmp_path: Path) -> None:
    marked = whole | {"iteration": np.zeros((1,), np.float32)}
    checkpoint = open_checkpoint(write(tmp_path / "wan.safetensors", marked), I2V)
    assert checkpoint.left_aside == {"iteration": 1}


@pytest.mark.parametrize("roots", [("ema", "model"), ("high_noise_model", "low_noise_model")])
def test_two_models_in_one_file_are_named(
    roots: tuple[str, str], whole: Tensors, tmp_path: Path
) -> None:
    both = {f"{root}.{n}": t for root in roots for n, t in whole.items()}
    with pytest.raises(CheckpointError, match=rf"holds 2 models: {roots[0]}\., {roots[1]}\."):
        open_checkpoint(write(tmp_path / "wan.safetensors", both))


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("vace_blocks.0.proj_out.weight", "is a VACE model"),
        ("blocks.0.to_gate_compress.weight", "is a VSA model"),
        ("control_adapter.conv.weight", "is a Fun-Control-Camera model"),
        ("ref_conv.weight", "is a Fun-Control model"),
        ("face_adapter.fuser.weight", "is Wan2.2-Animate"),
        ("dwpose_embedding.0.weight", "is UniAnimate-DiT"),
    ],
)
def test_other_models_have_their_names(
    extra: str, message: str, whole: Tensors, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=message) as caught:
        open_checkpoint(write(tmp_path / "wan.safetensors", whole | {extra: ONES}), I2V)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["shared.weight", "encoder.block.0.weight"], "is a text encoder, not a DiT"),
        (["encoder.conv1.weight", "decoder.conv1.weight"], "is a VAE, not a DiT"),
        (["something.else"], "has no tensor of a Wan DiT"),
    ],
)
def test_other_parts_have_their_names(names: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        open_checkpoint(write(tmp_path / "part.safetensors", dict.fromkeys(names, ONES)))


def test_a_ti2v_is_named_by_its_sizes(tmp_path: Path) -> None:
    patch = np.zeros((3072, 48, 1, 2, 2), np.float16)
    stem: Tensors = {"patch_embedding.weight": patch, "blocks.0.ffn.0.weight": ONES}
    with pytest.raises(CheckpointError, match=r"is Wan2\.2 TI2V-5B"):
        open_checkpoint(write(tmp_path / "wan.safetensors", stem))


def test_trained_parameters_alone_are_named(whole: Tensors, tmp_path: Path) -> None:
    part = {name: tensor for name, tensor in whole.items() if ".self_attn." in name}
    with pytest.raises(CheckpointError, match=rf"it holds {len(part)} tensors of one") as caught:
        open_checkpoint(write(tmp_path / "epoch-2.safetensors", part))
    assert "give them with --finetuned" in caught.value.hint
