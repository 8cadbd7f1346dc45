"""A quantised tensor in its file: q, its scale and the scheme; decoding is the last step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.storage.tensor_file import TensorRef

if TYPE_CHECKING:
    import numpy as np
    import torch

    Decode = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

__all__ = ["QuantizedRef", "decode_values"]


@dataclass(frozen=True)
class QuantizedRef(TensorRef):
    """A tensor that a file holds quantised. Its dtype is the one that it reads as, fp32.

    What computes with quantised weights takes `stored` and `scale` as they are.

    Args:
        stored: q, under its own dtype and shape; `path` and `offset` are its.
        scale: what q is multiplied by, [1, 1], [out, 1] or [out, groups] of an [out, in] tensor;
            None if there is none, or if q has it inside.
        scheme: how it is quantised: fp8, fp8_scaled, fp8_channel, int8_block, gguf:Q8_0.
        decode: makes rows of the tensor from rows of q.
    """

    stored: TensorRef
    scale: TensorRef | None
    scheme: str
    decode: Decode | None = field(default=None, compare=False, repr=False)

    @property
    def as_it_lies(self) -> bool:
        """False: its bytes have to be decoded."""
        return False

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that q and its scale lie in."""
        return (self.path,) if self.scale is None else (self.path, self.scale.path)

    def read(self) -> torch.Tensor:
        """Return the tensor, decoded."""
        return self.join_blocks()

    def read_blocks(self) -> Iterator[torch.Tensor]:
        """Yield q x scale in fp32, in blocks of rows; each is overwritten by the next."""
        import torch

        scale = torch.ones(1, 1) if self.scale is None else self._read_scale(self.scale)
        decode = self.decode or _Decoder()
        row = 0
        for q in self.stored.read_blocks():
            rows = len(q) if q.dim() else 1
            part = scale if len(scale) == 1 else scale[row : row + rows]
            row += rows
            yield decode(q, part).reshape(-1, *self.shape[1:])

    @staticmethod
    def _read_scale(ref: TensorRef) -> torch.Tensor:
        scale = ref.read().float()
        return scale.reshape(1, 1) if scale.numel() == 1 else scale.reshape(len(scale), -1)


class _Decoder:
    """Multiplies q by its scale in fp32; the room for the result is made once."""

    def __init__(self) -> None:
        import torch

        self._room = torch.empty(0)

    def __call__(self, q: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        values = decode_values(q, self._room)
        if scale.numel() > 1 or float(scale) != 1.0:
            values.view(len(scale), scale.shape[1], -1).mul_(scale.unsqueeze(-1))
        return values


def decode_values(q: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
    """Return q's values in fp32, in the memory of `room`, which grows as needed."""
    import numpy as np
    import torch

    values = room.resize_(q.shape)
    if q.dtype not in (torch.float8_e4m3fn, torch.float8_e5m2):
        return values.copy_(q)
    # a table is four times as fast as torch's own conversion (2.13, CPU), and has NaN in it
    codes = q.view(torch.uint8).numpy()
    np.take(_table(q.dtype), codes, out=values.numpy(), mode="clip")
    return values


@cache
def _table(dtype: torch.dtype) -> np.ndarray:
    """Return the values of the 256 codes of an 8-bit dtype."""
    import torch

    table: np.ndarray = torch.arange(256, dtype=torch.uint8).view(dtype).float().numpy()
    return table
