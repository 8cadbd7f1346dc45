"""GGUF checkpoints: what is read is what the gguf package decodes; damage is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from checkpointfiles import I2V, PATCH, Q, merged
from gguf import GGMLQuantizationType as Kind

from wanexport.checkpoint.open import open_checkpoint
from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.errors import CheckpointError
from wanexport.model.names import to_diffusers

Tensors = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Tensors:
    folder = tmp_path_factory.mktemp("whole")
    write_checkpoint(folder, I2V, "fp32", 0, layout="original")
    return merged(folder)


def write(path: Path, tensors: Tensors, kind: Kind) -> Tensors:
    """Write a file as ComfyUI-GGUF's converter does, and return what it should be read as."""
    writer = gguf.GGUFWriter(path, "wan")
    right: Tensors = {}
    for name, tensor in tensors.items():
        block, _ = gguf.GGML_QUANT_SIZES[kind]
        linear = name.startswith("blocks.") and tensor.ndim == 2 and tensor.shape[1] % block == 0
        used = kind if linear or name == PATCH else Kind.F32
        used = Kind.F16 if name == PATCH else used
        if tensor.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
        flat = tensor.reshape(len(tensor), -1) if tensor.ndim > 4 else tensor
        data = gguf.quantize(flat, used)
        writer.add_tensor(name, data, raw_dtype=used)
        right[name] = gguf.dequantize(data, used).reshape(tensor.shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return right


@pytest.mark.parametrize("kind", [Kind.F16, Kind.BF16, Kind.Q8_0, Kind.Q5_0, Kind.Q4_1])
def test_reads_what_gguf_decodes(kind: Kind, whole: Tensors, tmp_path: Path) -> None:
    right = write(tmp_path / "wan.gguf", whole, kind)
    for path in (tmp_path / "wan.gguf", tmp_path):
        checkpoint = open_checkpoint(str(path), I2V)
        assert (checkpoint.scheme() or "").startswith(f"gguf:{kind.name}")
    for name, value in right.items():
        ref = checkpoint.tensors[to_diffusers(name) or name]
        assert torch.equal(ref.read(), torch.from_numpy(value))


def test_refuses_a_file_that_is_cut_off(whole: Tensors, tmp_path: Path) -> None:
    path = tmp_path / "wan.gguf"
    write(path, whole, Kind.Q8_0)
    data = path.read_bytes()
    for length in (len(data) - 1024, 4000, 100, 10):
        path.write_bytes(data[:length])
        with pytest.raises(CheckpointError, match=r"is not a whole GGUF file|is cut off in"):
            open_checkpoint(str(path), I2V)


def test_refuses_a_kind_that_it_does_not_know(tmp_path: Path) -> None:
    path = tmp_path / "wan.gguf"
    writer = gguf.GGUFWriter(path, "wan")
    writer.add_tensor(Q, np.zeros((4, 256), np.int8))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(CheckpointError, match=r"is I8; .* can be decoded"):
        open_checkpoint(str(path))
