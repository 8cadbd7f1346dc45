"""GGUF checkpoints: what is read is what the gguf package decodes; damage is refused."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from checkpointfiles import I2V, PATCH, Q, merged
from gguf import GGMLQuantizationType as Kind

from wanexport.checkpoint.gguf_file import open_weights
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


def finish(writer: gguf.GGUFWriter) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


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
    finish(writer)
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


# Of a block: where its halves are, and which kinds gguf can't write itself.
HALVES = {
    Kind.Q2_K: (80, 82), Kind.Q3_K: (108,), Kind.Q4_K: (0, 2), Kind.Q5_K: (0, 2),
    Kind.Q6_K: (208,), Kind.IQ4_NL: (0,), Kind.IQ4_XS: (0,),
}  # fmt: skip


def random_blocks(kind: Kind, rows: int, width: int) -> np.ndarray:
    """Return rows of blocks of any bits, whose scales are small numbers."""
    values, size = gguf.GGML_QUANT_SIZES[kind]
    rng = np.random.default_rng(int(kind))
    blocks = rng.integers(0, 256, (rows * width // values, size), np.uint8)
    for place in HALVES[kind]:
        half = rng.uniform(1e-3, 1e-2, len(blocks)).astype(np.float16)
        blocks[:, place : place + 2] = half.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, -1)


@pytest.mark.parametrize("kind", HALVES, ids=lambda kind: kind.name)
def test_reads_what_gguf_decodes_of_kinds_it_can_not_write(
    kind: Kind, whole: Tensors, tmp_path: Path
) -> None:
    writer = gguf.GGUFWriter(tmp_path / "wan.gguf", "wan")
    right: Tensors = {}
    for name, tensor in whole.items():
        if name.endswith("ffn.2.weight"):  # [128, 256]: rows of whole blocks
            data = random_blocks(kind, *tensor.shape)
            right[name] = gguf.dequantize(data, kind).reshape(tensor.shape)
            writer.add_tensor(name, data, raw_dtype=kind)
            continue
        if tensor.ndim > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", list(tensor.shape))
        writer.add_tensor(name, tensor.reshape(len(tensor), -1) if tensor.ndim > 4 else tensor)
        right[name] = tensor
    finish(writer)
    checkpoint = open_checkpoint(str(tmp_path / "wan.gguf"), I2V)
    assert checkpoint.scheme() == f"gguf:{kind.name}"
    for name, value in right.items():
        ref = checkpoint.tensors[to_diffusers(name) or name]
        assert torch.equal(ref.read(), torch.from_numpy(value))
        assert ref.shape == value.shape


def test_a_block_of_iq4_nl_by_hand(tmp_path: Path) -> None:
    """d x the table's value of each half byte, low halves first: ggml's dequantize_row_iq4_nl."""
    table = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
    codes = list(range(16)) + list(range(15, -1, -1))
    half = np.array([0.5], np.float16).view(np.uint8)
    packed = [low | high << 4 for low, high in zip(codes[:16], codes[16:], strict=True)]
    block = np.concatenate([half, np.array(packed, np.uint8)])[None]
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "wan")
    writer.add_tensor(Q, block, raw_dtype=Kind.IQ4_NL)
    finish(writer)
    (ref,) = open_weights(tmp_path / "one.gguf").tensors.values()
    assert ref.read().flatten().tolist() == [0.5 * table[code] for code in codes]


def test_a_block_of_q4_k_by_hand(tmp_path: Path) -> None:
    """d x scale x q - dmin x min, of eight groups of 32; after ggml's dequantize_row_q4_K."""
    scales, mins = [1, 2, 3, 4, 33, 34, 35, 36], [5, 6, 7, 8, 9, 10, 63, 12]
    packed = [s | (high >> 4) << 6 for s, high in zip(scales[:4], scales[4:], strict=True)]
    packed += [m | (high >> 4) << 6 for m, high in zip(mins[:4], mins[4:], strict=True)]
    packed += [s & 15 | (m & 15) << 4 for s, m in zip(scales[4:], mins[4:], strict=True)]
    halves = np.array([0.25, 0.5], np.float16).view(np.uint8)
    quants = [[(group + i) % 16 for i in range(32)] for group in range(8)]
    bytes_ = [
        low | high << 4
        for group in range(0, 8, 2)
        for low, high in zip(quants[group], quants[group + 1], strict=True)
    ]
    block = np.concatenate([halves, np.array(packed + bytes_, np.uint8)])[None]
    writer = gguf.GGUFWriter(tmp_path / "one.gguf", "wan")
    writer.add_tensor(Q, block, raw_dtype=Kind.Q4_K)
    finish(writer)
    (ref,) = open_weights(tmp_path / "one.gguf").tensors.values()
    right = [
        0.25 * scale * q - 0.5 * least
        for scale, least, group in zip(scales, mins, quants, strict=True)
        for q in group
    ]
    assert ref.read().flatten().tolist() == right


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
    finish(writer)
    with pytest.raises(CheckpointError, match=r"is I8; .* can be decoded"):
        open_checkpoint(str(path))
