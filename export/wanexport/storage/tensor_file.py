"""Safetensors files as byte ranges: where tensors lie, and files written one tensor at a time.

The safetensors library validates every file that is read; it neither tells byte offsets nor writes
a file without holding all of it, so the header (8 bytes of length, then JSON, then the data, see
https://github.com/huggingface/safetensors#format) is also read and written here.
"""

from __future__ import annotations

import json
import math
import mmap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from wanexport.errors import CheckpointError, WanExportError
from wanexport.storage.dtypes import STORED, itemsize, torch_dtype
from wanexport.storage.foreign_file import describe_foreign
from wanexport.storage.streams import open_stream, read_stream
from wanrt.storage.files import atomic_path
from wanrt.storage.regular import check_regular

if TYPE_CHECKING:
    import torch

__all__ = ["SafetensorsFile", "StoredTensor", "TensorRef", "open_safetensors", "write_safetensors"]

BLOCK_BYTES = 2 << 20  # with its fp32 twin it stays in a core's cache


@dataclass(frozen=True)
class StoredTensor:
    """A tensor's name, safetensors dtype and shape."""

    name: str
    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """The tensor's size in a file."""
        return math.prod(self.shape) * itemsize(self.dtype)


@dataclass(frozen=True)
class TensorRef(StoredTensor):
    """A tensor in its file: `nbytes` bytes at `offset` of `path`."""

    path: Path
    offset: int

    @property
    def as_it_lies(self) -> bool:
        """Whether the bytes there are the tensor; those of a quantised one have to be decoded."""
        return True

    @property
    def stored_as(self) -> TensorRef:
        """The tensor in the file, where more is done to it than decoding."""
        return self

    @property
    def made_by(self) -> str:
        """What is done to the tensor in the file, unless its files say it; empty: nothing."""
        return ""

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that reading it reads."""
        return (self.path,)

    def read(self) -> torch.Tensor:
        """Return the tensor in its stored dtype; its memory is a private map of the file."""
        import torch

        dtype = torch_dtype(self.dtype)
        if self.nbytes == 0:
            return torch.empty(self.shape, dtype=dtype)
        start = self.offset - self.offset % mmap.ALLOCATIONGRANULARITY
        with self.path.open("rb") as file:
            view = mmap.mmap(
                file.fileno(),
                self.nbytes + self.offset - start,
                access=mmap.ACCESS_COPY,
                offset=start,
            )
        count = math.prod(self.shape)
        if self.offset % itemsize(self.dtype):  # the header's length decides the alignment
            data = bytearray(view[self.offset - start :])
            return torch.frombuffer(data, dtype=dtype, count=count).reshape(self.shape)
        flat = torch.frombuffer(view, dtype=dtype, count=count, offset=self.offset - start)
        return flat.reshape(self.shape)

    def join_blocks(self) -> torch.Tensor:
        """Return what `read_blocks` yields as one tensor: how a made tensor is read."""
        import torch

        blocks = [block.clone() for block in self.read_blocks()]
        return torch.cat(blocks) if len(blocks) > 1 else blocks[0]

    def read_bytes(self, at_most: int) -> bytes:
        """Return the first bytes of the tensor as they lie in the file."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(min(self.nbytes, at_most))

    def read_blocks(self) -> Iterator[torch.Tensor]:
        """Yield the tensor in blocks of rows; each is overwritten when the next is asked for.

        Raises:
            CheckpointError: the file became shorter after it was opened.
        """
        import torch

        if not self.shape or self.nbytes <= BLOCK_BYTES:
            yield self.read()
            return
        row_bytes = self.nbytes // self.shape[0]
        block = row_bytes * max(1, BLOCK_BYTES // row_bytes)
        try:
            for part in read_stream(self.path, self.offset, self.nbytes, block):
                flat = torch.frombuffer(part, dtype=torch_dtype(self.dtype))
                yield flat.reshape(-1, *self.shape[1:])
        except EOFError:
            raise CheckpointError(f"{self.path} was cut while it was read") from None


@dataclass(frozen=True)
class SafetensorsFile:
    """A validated safetensors file: its tensors in file order and its metadata."""

    path: Path
    tensors: dict[str, TensorRef]
    metadata: dict[str, str]


def open_safetensors(path: Path, error: type[WanExportError] = CheckpointError) -> SafetensorsFile:
    """Validate a safetensors file and return where its tensors lie.

    Raises:
        CheckpointError: (or the class given as `error`) the file is missing, not safetensors,
            truncated, or its header doesn't describe it.
    """
    try:
        check_regular(path)
        foreign = describe_foreign(path)
        if foreign is not None:
            raise error(f"{path} is {foreign[0]}", foreign[1])
        with safe_open(path, framework="np") as handle:
            metadata = dict(handle.metadata() or {})
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except FileNotFoundError:
        raise error(f"{path} doesn't exist") from None
    except SafetensorError as problem:
        raise error(f"{path} is not a whole safetensors file: {problem}") from None
    except OSError as problem:
        raise error(f"{path} can't be read: {problem.strerror or problem}") from None
    header.pop("__metadata__", None)
    tensors = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"][0]):
        if entry["dtype"] not in STORED:
            raise error(f"{path}: {name} has dtype {entry['dtype']}, which isn't supported")
        begin, _ = entry["data_offsets"]
        tensors[name] = TensorRef(
            name, entry["dtype"], tuple(entry["shape"]), path, 8 + length + begin
        )
    return SafetensorsFile(path, tensors, metadata)


def write_safetensors(
    path: Path,
    specs: Sequence[StoredTensor],
    tensors: Iterable[torch.Tensor],
    metadata: Mapping[str, str] | None = None,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> str:
    """Write a safetensors file as its tensors are made, so that one of them at most is in memory.

    Args:
        path: where; the file appears whole or not at all.
        specs: what the file will hold, in file order.
        tensors: the tensors in the same order, made as they are asked for; a large one may come in
            several blocks of rows, which may be overwritten once the next is asked for.
        metadata: string pairs for the header.
        on_bytes: called with the number of bytes just written.

    Returns:
        The file's SHA-256 in hex.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for spec in specs:
        header[spec.name] = {
            "dtype": spec.dtype,
            "shape": list(spec.shape),
            "data_offsets": [offset, offset + spec.nbytes],
        }
        offset += spec.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % 64)  # aligned data; the format allows trailing spaces
    with atomic_path(path) as temporary, open_stream(temporary) as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for block in _check_blocks(specs, tensors):
            file.write(_bytes_of(block))
            on_bytes(block.nbytes)
        return file.finish()


def _check_blocks(
    specs: Sequence[StoredTensor], tensors: Iterable[torch.Tensor]
) -> Iterator[torch.Tensor]:
    """Yield the tensors' blocks, and raise ValueError where they aren't what the specs say."""
    blocks = iter(tensors)
    for spec in specs:
        missing = math.prod(spec.shape)
        while True:
            block = next(blocks, None)
            if block is None:
                raise ValueError(f"{spec.name}: {missing} values are missing")
            missing -= block.numel()
            alike = tuple(block.shape[1:]) == spec.shape[1:] and block.dim() == len(spec.shape)
            if missing < 0 or not alike or block.dtype != torch_dtype(spec.dtype):
                raise ValueError(f"{spec.name}: got {block.dtype} {tuple(block.shape)}")
            yield block
            if not missing:
                break
    if next(blocks, None) is not None:
        raise ValueError("there are more tensors than specs")


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    import torch

    flat = tensor.detach().contiguous().flatten()
    return memoryview(flat.view(torch.uint8).numpy().data)
