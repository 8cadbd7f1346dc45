"""Safetensors files that are streamed: every byte arrives, whatever the file system can do."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from wanexport.errors import CheckpointError
from wanexport.storage.tensor_file import StoredTensor, open_safetensors, write_safetensors

MIB = 1 << 20
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "U8": torch.uint8}
SHAPES = {
    "empty": ("F32", (0, 8)),
    "scalar": ("F32", ()),
    "vector": ("BF16", (3 * MIB + 1,)),
    "rows-no-block-divides": ("BF16", (4_099, 1_031)),
    "row-larger-than-a-block": ("F32", (3, MIB + 1)),
    "kernel": ("F32", (1_111, 36, 1, 7, 7)),
    "bytes": ("U8", (5 * MIB + 3,)),
}


def make(name: str) -> torch.Tensor:
    dtype, shape = SHAPES[name]
    values = torch.arange(torch.Size(shape).numel(), dtype=torch.int64)
    return (values * 2_654_435_761 % 251).to(DTYPES[dtype]).reshape(shape)


def write(path: Path, tensors: dict[str, torch.Tensor]) -> str:
    specs = [StoredTensor(name, SHAPES[name][0], tuple(t.shape)) for name, t in tensors.items()]
    return write_safetensors(path, specs, tensors.values())


def assert_written(path: Path, tensors: dict[str, torch.Tensor], digest: str) -> None:
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
    found = load_file(path)
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert torch.equal(found[name], tensor), name
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_what_is_written_is_read_by_the_library(tmp_path: Path) -> None:
    tensors = {name: make(name) for name in SHAPES}
    path = tmp_path / "x.safetensors"
    assert_written(path, tensors, write(path, tensors))


@pytest.mark.parametrize("name", SHAPES)
def test_blocks_are_the_tensor(name: str, tmp_path: Path) -> None:
    tensor = make(name)
    path = tmp_path / "x.safetensors"
    save_file({"odd": torch.zeros(3, dtype=torch.uint8), "x": tensor}, path)
    ref = open_safetensors(path).tensors["x"]
    blocks = [block.clone() for block in ref.read_blocks()]
    assert all(block.nbytes <= max(2 * MIB, tensor[:1].nbytes) for block in blocks if tensor.dim())
    assert torch.equal(torch.cat(blocks) if tensor.dim() else blocks[0], tensor)


def test_a_block_may_be_used_again_once_the_next_is_asked_for(tmp_path: Path) -> None:
    tensor = make("vector")
    save_file({"vector": tensor}, tmp_path / "x.safetensors")
    ref = open_safetensors(tmp_path / "x.safetensors").tensors["vector"]
    copy = tmp_path / "copy" / "x.safetensors"
    copy.parent.mkdir()
    digest = write_safetensors(copy, [ref], ref.read_blocks())
    assert_written(copy, {"vector": tensor}, digest)


def test_a_file_cut_meanwhile_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"vector": make("vector")}, path)
    ref = open_safetensors(path).tensors["vector"]
    os.truncate(path, path.stat().st_size - 5)
    with pytest.raises(CheckpointError, match="was cut while it was read"):
        list(ref.read_blocks())


def refuse_direct_open(monkeypatch: pytest.MonkeyPatch) -> None:
    """As file systems without O_DIRECT do."""
    real = os.open

    def refusing(path: str, flags: int, mode: int = 0o777, **options: int) -> int:
        if flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(path, flags, mode, **options)

    monkeypatch.setattr(os, "open", refusing)


def refuse_direct_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """As file systems whose blocks are larger do."""
    import fcntl

    real = os.write

    def refusing(descriptor: int, data: memoryview) -> int:
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(descriptor, data)

    monkeypatch.setattr(os, "write", refusing)


def refuse_uncached_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Linux before 6.14 does."""
    real = os.preadv

    def refusing(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        if flags:
            raise OSError(errno.EOPNOTSUPP, "Operation not supported")
        return real(descriptor, buffers, offset)

    monkeypatch.setattr(os, "preadv", refusing)


def read_a_little(monkeypatch: pytest.MonkeyPatch) -> None:
    """As signals and networks do."""
    real = os.preadv

    def stingy(descriptor: int, buffers: list[memoryview], offset: int, flags: int = 0) -> int:
        return real(descriptor, [buffers[0][:300_001]], offset, flags)

    monkeypatch.setattr(os, "preadv", stingy)


@pytest.mark.parametrize(
    "system", [refuse_direct_open, refuse_direct_write, refuse_uncached_read, read_a_little]
)
def test_lesser_systems_get_the_same_bytes(
    system: Callable[[pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    tensors = {name: make(name) for name in ("kernel", "vector", "bytes")}
    save_file(tensors, tmp_path / "x.safetensors")
    refs = open_safetensors(tmp_path / "x.safetensors").tensors
    copy = tmp_path / "copy" / "x.safetensors"
    copy.parent.mkdir()
    system(monkeypatch)
    blocks = (block for ref in refs.values() for block in ref.read_blocks())
    digest = write_safetensors(copy, list(refs.values()), blocks)
    assert_written(copy, tensors, digest)
