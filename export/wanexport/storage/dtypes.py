"""Dtypes by all their names: an engine's (fp32), a weight file's (F32), torch's and ONNX's."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from wanrt.manifest.fields import Dtype
from wanrt.storage.dtypes import ONNX, SAFETENSORS

if TYPE_CHECKING:
    import onnx_ir as ir
    import torch

__all__ = [
    "ENGINE_DTYPES",
    "NARROW",
    "STORED",
    "engine_dtype",
    "itemsize",
    "onnx_dtype",
    "torch_dtype",
]

ENGINE_DTYPES: dict[str, Dtype] = {stored: cast("Dtype", n) for n, stored in SAFETENSORS.items()}

STORED = {  # by a weight file's name: bytes of a value, torch's name
    "F64": (8, "float64"), "F32": (4, "float32"), "F16": (2, "float16"), "BF16": (2, "bfloat16"),
    "I64": (8, "int64"), "I32": (4, "int32"), "I16": (2, "int16"), "I8": (1, "int8"),
    "U64": (8, "uint64"), "U32": (4, "uint32"), "U16": (2, "uint16"), "U8": (1, "uint8"),
    "F8_E4M3": (1, "float8_e4m3fn"), "F8_E5M2": (1, "float8_e5m2"), "BOOL": (1, "bool"),
}  # fmt: skip

NARROW = {"I8": "INT8", "F8_E4M3": "FLOAT8E4M3FN"}
"""What quantised weights are stored in, by a weight file's and ONNX's names; no engine's dtype."""


def itemsize(dtype: str) -> int:
    """Return the bytes of one value of an engine's or a weight file's dtype."""
    return STORED[SAFETENSORS.get(dtype, dtype)][0]


def torch_dtype(dtype: str) -> torch.dtype:
    """Return torch's dtype of an engine's or a weight file's; imports torch."""
    import torch

    found: torch.dtype = getattr(torch, STORED[SAFETENSORS.get(dtype, dtype)][1])
    return found


def onnx_dtype(dtype: str) -> ir.DataType:
    """Return ONNX's dtype of an engine's or of a weight file's that engines can have."""
    import onnx_ir as ir

    if dtype in NARROW:
        return ir.DataType[NARROW[dtype]]
    return ir.DataType(ONNX[ENGINE_DTYPES.get(dtype, dtype)])


def engine_dtype(dtype: ir.DataType | None) -> Dtype:
    """Return the engine's name of an ONNX dtype; KeyError if engines don't have it."""
    return {onnx_dtype(name): name for name in ENGINE_DTYPES.values()}[cast("ir.DataType", dtype)]
