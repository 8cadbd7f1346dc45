"""Weights quantised to int8 as they stream by: q [in, out] and a scale per output feature."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.model.quantization import scale_name
from wanexport.storage.tensor_file import StoredTensor, TensorRef

if TYPE_CHECKING:  # a dry run needs no torch
    from torch import Tensor

__all__ = ["dequantize", "fake_quantize", "is_quantized", "quantize", "quantize_refs", "specify"]

LARGEST = 127.0
"""Of q: symmetric, so that no zero point is needed."""
MADE_BY = "int8 per output feature, transposed"
SUFFIX = ".weight"


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return q [in, out] in int8 and scale [out] in fp32 of a weight [out, in].

    A row of zeros has scale 1, so that nothing is divided by zero.
    """
    weight = weight.float()
    scale = weight.abs().amax(1) / LARGEST
    scale[scale == 0] = 1
    q = (weight / scale[:, None]).round_().clamp_(-LARGEST, LARGEST)
    return q.char().T.contiguous(), scale


def dequantize(q: Tensor, scale: Tensor) -> Tensor:
    """Return the weight [out, in] in fp32 that q [in, out] and its scales stand for."""
    return q.T.float().mul_(scale[:, None])


def fake_quantize(weight: Tensor) -> Tensor:
    """Return a weight [out, in] in fp32 as a quantised engine multiplies by it."""
    return dequantize(*quantize(weight))


def is_quantized(name: str, modules: Collection[str]) -> bool:
    """Tell whether a parameter is the weight of one of the modules."""
    return name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in modules


def specify(name: str, shape: tuple[int, ...]) -> tuple[StoredTensor, StoredTensor]:
    """Return q and scale of a weight [out, in] as a file holds them."""
    fan_out, fan_in = shape
    return (
        StoredTensor(name, "I8", (fan_in, fan_out)),
        StoredTensor(scale_name(name), "F32", (fan_out,)),
    )


def quantize_refs(refs: Mapping[str, TensorRef], modules: Collection[str]) -> dict[str, TensorRef]:
    """Return a checkpoint's tensors with q and scale in place of each weight of the modules."""
    result: dict[str, TensorRef] = {}
    for name, ref in refs.items():
        if not is_quantized(name, modules):
            result[name] = ref
            continue
        q, scale = specify(ref.name, ref.shape)
        for index, (key, spec) in enumerate(((name, q), (scale_name(name), scale))):
            result[key] = QuantizingRef(
                spec.name, spec.dtype, spec.shape, ref.path, ref.offset, ref, index
            )
    return result


@dataclass(frozen=True)
class QuantizingRef(TensorRef):
    """What a weight in its file is quantised to: q (`part` 0) or its scale (1)."""

    source: TensorRef
    part: int

    @property
    def as_it_lies(self) -> bool:
        """False: it is made of the bytes there."""
        return False

    @property
    def made_by(self) -> str:
        """How, and of which tensor: a file of other layers left out is another file."""
        return f"{self.source.made_by} {MADE_BY}: {self.name}"

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that hold the weight."""
        return self.source.paths

    def read(self) -> Tensor:
        """Return q or the scale; the whole weight is in memory meanwhile."""
        return _quantize_stored(self.source)[self.part]

    def read_blocks(self) -> Iterator[Tensor]:
        """Yield q or the scale as one block."""
        yield self.read()


@lru_cache(maxsize=1)
def _quantize_stored(source: TensorRef) -> tuple[Tensor, Tensor]:
    """Quantise a weight once for q and its scale, which a file has one after the other."""
    return quantize(source.join_blocks())
