"""Weights quantised to 8 bits as they stream by: q and a scale per output feature."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.model.quantization import Format, scale_name
from wanexport.storage.dtypes import torch_dtype
from wanexport.storage.tensor_file import StoredTensor, TensorRef

if TYPE_CHECKING:  # a dry run needs no torch
    from torch import Tensor

__all__ = [
    "DequantizedRef",
    "dequantize",
    "fake_quantize",
    "is_quantized",
    "quantize",
    "quantize_refs",
    "specify",
]

SUFFIX = ".weight"


def quantize(weight: Tensor, form: Format) -> tuple[Tensor, Tensor]:
    """Return q and scale [out] in fp32 of a weight [out, in]; q is [out, in] or transposed.

    A row of zeros has scale 1, so that nothing is divided by zero.
    """
    weight = weight.float()
    scale = weight.abs().amax(1) / form.largest
    scale[scale == 0] = 1
    q = weight / scale[:, None]
    if form.scheme == "int8":
        q = q.round_()
    q = q.clamp_(-form.largest, form.largest).to(torch_dtype(form.stored))
    return q.T.contiguous() if form.transposed else q, scale


def dequantize(q: Tensor, scale: Tensor, form: Format) -> Tensor:
    """Return the weight [out, in] in fp32 that q and its scales stand for."""
    return (q.T if form.transposed else q).float().mul_(scale[:, None])


def fake_quantize(weight: Tensor, form: Format) -> Tensor:
    """Return a weight [out, in] in fp32 as a quantised engine multiplies by it."""
    return dequantize(*quantize(weight, form), form)


def is_quantized(name: str, modules: Collection[str]) -> bool:
    """Tell whether a parameter is the weight of one of the modules."""
    return name.endswith(SUFFIX) and name.removesuffix(SUFFIX) in modules


def specify(name: str, shape: tuple[int, ...], form: Format) -> tuple[StoredTensor, StoredTensor]:
    """Return q and scale of a weight [out, in] as a file holds them."""
    fan_out, fan_in = shape
    return (
        StoredTensor(name, form.stored, (fan_in, fan_out) if form.transposed else shape),
        StoredTensor(scale_name(name), "F32", (fan_out,)),
    )


def quantize_refs(
    refs: Mapping[str, TensorRef], modules: Collection[str], form: Format | None
) -> dict[str, TensorRef]:
    """Return a checkpoint's tensors with q and scale in place of each weight of the modules."""
    result: dict[str, TensorRef] = {}
    for name, ref in refs.items():
        if form is None or not is_quantized(name, modules):
            result[name] = ref
            continue
        q, scale = specify(ref.name, ref.shape, form)
        for index, (key, spec) in enumerate(((name, q), (scale_name(name), scale))):
            result[key] = QuantizingRef(
                spec.name, spec.dtype, spec.shape, ref.path, ref.offset, ref, index, form
            )
    return result


@dataclass(frozen=True)
class QuantizingRef(TensorRef):
    """What a weight in its file is quantised to: q (`part` 0) or its scale (1)."""

    source: TensorRef
    part: int
    form: Format

    @property
    def as_it_lies(self) -> bool:
        """False: it is made of the bytes there."""
        return False

    @property
    def made_by(self) -> str:
        """How, and of which tensor: a file of other layers left out is another file."""
        layout = ", transposed" if self.form.transposed else ""
        how = f"{self.form.scheme} per output feature{layout}"
        return f"{self.source.made_by} {how}: {self.name}"

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files that hold the weight."""
        return self.source.paths

    def read(self) -> Tensor:
        """Return q or the scale; the whole weight is in memory meanwhile."""
        return _quantize_stored(self.source, self.form)[self.part]

    def read_blocks(self) -> Iterator[Tensor]:
        """Yield q or the scale as one block."""
        yield self.read()


@dataclass(frozen=True)
class DequantizedRef(TensorRef):
    """What an engine's q stands for, read as the weight [out, in] in fp32."""

    scale: TensorRef
    form: Format

    def read(self) -> Tensor:
        """Return the weight."""
        return dequantize(super().read(), self.scale.read(), self.form)


@lru_cache(maxsize=1)
def _quantize_stored(source: TensorRef, form: Format) -> tuple[Tensor, Tensor]:
    """Quantise a weight once for q and its scale, which a file has one after the other."""
    return quantize(source.join_blocks(), form)
