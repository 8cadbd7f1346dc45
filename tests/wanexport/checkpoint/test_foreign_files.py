"""What isn't safetensors, and folders that training left: named rightly, and each hint followed."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpointfiles import I2V
from commands import wanexport
from safetensors.torch import load_file, save_file

from wanexport.checkpoint.open import open_checkpoint
from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.errors import CheckpointError

Tensors = dict[str, torch.Tensor]
INDEX = "diffusion_pytorch_model.safetensors.index.json"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    folder = tmp_path_factory.mktemp("whole")
    write_checkpoint(folder, I2V, "fp32", 0, layout="original")
    return {k: v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()}


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(str(path))
    return caught.value


def follow(hint: str) -> None:
    """Run the command that a hint ends with."""
    command = shlex.split(re.sub(r", then give .*", "", hint[hint.index("python ") :]))
    subprocess.run([sys.executable, *command[1:]], check=True, capture_output=True, timeout=120)


@pytest.mark.parametrize("state", ["", "generator_ema", "state_dict"])
def test_a_pickle_is_converted_by_its_hint(state: str, whole: Tensors, tmp_path: Path) -> None:
    held = {f"model.{name}": tensor for name, tensor in whole.items()}
    path = tmp_path / "my wan's.pt"
    torch.save({state: held, "step": 3} if state else held, path)
    error = refusal(path)
    assert "is a pickle" in str(error)
    follow(error.hint)
    assert len(open_checkpoint(str(path.with_suffix(".safetensors")), I2V).tensors) == len(whole)


def test_a_conversion_does_not_write_over_its_source(tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    torch.save({"x": torch.ones(1)}, path)
    assert "wan-converted.safetensors" in refusal(path).hint


def test_several_models_in_a_pickle_are_named(tmp_path: Path) -> None:
    path = tmp_path / "self_forcing.pt"
    torch.save({name: {"x": torch.ones(1)} for name in ("generator", "generator_ema")}, path)
    assert "it holds generator_ema, generator: put the one you mean" in refusal(path).hint


def test_a_folder_of_pickles_becomes_one_file(whole: Tensors, tmp_path: Path) -> None:
    names = sorted(whole)
    for i, part in enumerate((names[::2], names[1::2])):
        torch.save({n: whole[n] for n in part}, tmp_path / f"pytorch_model-{i}.bin")
    torch.save({}, tmp_path / "optimizer.bin")
    error = refusal(tmp_path)
    assert "holds a pickle" in str(error)
    follow(error.hint)
    assert len(open_checkpoint(str(tmp_path), I2V).tensors) == len(whole)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_distributed_checkpoint_is_converted_by_its_hints(whole: Tensors, tmp_path: Path) -> None:
    from torch.distributed import checkpoint

    folder = tmp_path / "step_500"
    checkpoint.save({"model": whole}, checkpoint_id=str(folder))  # type: ignore[attr-defined]
    error = refusal(folder)
    assert "holds a distributed checkpoint (DCP)" in str(error)
    follow(error.hint)
    (converted,) = tmp_path.glob("*.pt")
    follow(refusal(converted).hint)
    assert open_checkpoint(str(converted.with_suffix(".safetensors")), I2V)


@pytest.mark.parametrize(
    ("files", "kind", "command"),
    [
        (["global_step9/mp_rank_00_model_states.pt"], "a DeepSpeed checkpoint", "zero_to_fp32"),
        (["zero_to_fp32.py", "latest"], "a DeepSpeed checkpoint", "zero_to_fp32"),
        (
            ["pytorch_model_fsdp_0/.metadata", "pytorch_model_fsdp_0/__0_0.distcp"],
            "an FSDP checkpoint",
            "accelerate merge-weights",
        ),
        ([".metadata", "__0_0.distcp"], "a distributed checkpoint", "dcp_to_torch"),
    ],
    ids=["deepspeed-step", "deepspeed", "fsdp", "dcp"],
)
def test_trainers_folders_are_named(
    files: list[str], kind: str, command: str, tmp_path: Path
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    error = refusal(tmp_path)
    assert f"holds {kind}" in str(error)
    assert command in error.hint


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"<!DOCTYPE html><html><head>", "is a web page"),
        (b"\n <HTML>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "is a Git LFS pointer"),
        (b"GGUF\x03\x00\x00\x00", "is not a whole GGUF file"),
        (b"\x80\x02}q\x00.", "is a pickle"),
    ],
    ids=["page", "page-in-capitals", "lfs", "gguf", "pickle"],
)
def test_a_file_under_a_wrong_name(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    path.write_bytes(content)
    error = refusal(path)
    assert what in str(error)
    assert error.hint


def test_a_header_whose_length_begins_like_a_pickle(whole: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "wan.safetensors"
    save_file(whole, path)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    padded = length + (0x80 - length) % 256
    spaces = b" " * (padded - length)
    text, values = data[8 : 8 + length], data[8 + length :]
    path.write_bytes(padded.to_bytes(8, "little") + text + spaces + values)
    assert open_checkpoint(str(path), I2V)


def test_an_index_of_a_variant_is_read(whole: Tensors, tmp_path: Path) -> None:
    names = sorted(whole)
    weight_map: dict[str, str] = {}
    for i, part in enumerate((names[::2], names[1::2]), 1):
        file = f"diffusion_pytorch_model.fp16-0000{i}-of-00002.safetensors"
        save_file({n: whole[n] for n in part}, tmp_path / file)
        weight_map |= dict.fromkeys(part, file)
    index = tmp_path / "diffusion_pytorch_model.safetensors.index.fp16.json"
    index.write_text(json.dumps({"weight_map": weight_map}))
    for path in (tmp_path, index):
        assert len(open_checkpoint(str(path), I2V).tensors) == len(whole)


def test_a_newer_file_beside_an_index_is_spoken_of(tmp_path: Path, whole: Tensors) -> None:
    write_checkpoint(tmp_path, I2V, "fp32", 0, shard_bytes=1 << 20)
    single = tmp_path / "diffusion_pytorch_model.safetensors"
    save_file(whole, single)
    later = (tmp_path / INDEX).stat().st_mtime + 10
    os.utime(single, (later, later))
    assert single not in {ref.path for ref in open_checkpoint(str(tmp_path)).tensors.values()}
    said = " ".join(wanexport("inspect", tmp_path).err.split())
    assert f"{single.name} is newer than {INDEX}; the index's files are taken" in said


@pytest.mark.parametrize(
    "pair", [("transformer", "transformer_2"), ("high_noise_model", "low_noise_model")]
)
def test_both_experts_are_named(pair: tuple[str, str], tmp_path: Path) -> None:
    for name in pair:
        (tmp_path / name).mkdir()
    (tmp_path / "models_t5_umt5-xxl-enc-bf16.pth").write_bytes(b"PK\x03\x04")
    error = refusal(tmp_path)
    assert "the two experts of a Wan2.2 model" in str(error)
    assert all(str(tmp_path / name) in error.hint for name in pair)


def test_all_files_are_named_where_one_must_be_picked(whole: Tensors, tmp_path: Path) -> None:
    for name in ("ema_model", "model"):
        save_file(whole, tmp_path / f"{name}.safetensors")
    error = refusal(tmp_path)
    assert all(f"{name}.safetensors" in error.hint for name in ("ema_model", "model"))
    assert len(open_checkpoint(str(tmp_path / "model.safetensors"), I2V).tensors) == len(whole)


def test_fused_projections_are_named(whole: Tensors, tmp_path: Path) -> None:
    save_file(
        {**whole, "blocks.0.attn1.to_qkv.weight": torch.ones(3, 3)}, tmp_path / "m.safetensors"
    )
    error = refusal(tmp_path)
    assert "q, k and v fused" in str(error)
    assert "unfuse_qkv_projections()" in error.hint


def test_flattened_parameters_are_named(tmp_path: Path) -> None:
    save_file({"blocks.0._flat_param": torch.ones(9)}, tmp_path / "m.safetensors")
    error = refusal(tmp_path)
    assert "FSDP" in str(error)
    assert "FULL_STATE_DICT" in error.hint


def test_one_of_two_models_is_written_by_the_hint(whole: Tensors, tmp_path: Path) -> None:
    held = {
        f"{root}{name}": v + i
        for i, root in enumerate(("ema.", "model."))
        for name, v in whole.items()
    }
    save_file(held, tmp_path / "m.safetensors")
    error = refusal(tmp_path)
    assert "holds 2 models" in str(error)
    follow(error.hint)
    taken = open_checkpoint(str(tmp_path / "m-rewritten.safetensors"), I2V)
    assert taken.stripped == ("model.",)
    assert len(taken.tensors) == len(whole)
