"""A tensor's address, read from its DLPack capsule, since numpy knows neither bf16 nor GPUs.

The structures are those of dlpack.h, versions 0 and 1. The capsule is only borrowed: as long as it
lives, so does the tensor's memory.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanrt.errors import EngineError
from wanrt.storage.dtypes import NUMPY, Array

__all__ = ["TensorView", "view_tensor"]

CPU, CUDA, CUDA_HOST, CUDA_MANAGED = 1, 2, 3, 13
DTYPES = {(2, 32): "fp32", (2, 16): "fp16", (4, 16): "bf16"}
KINDS = ("int", "uint", "float", "handle", "bfloat", "complex", "bool")


class _Device(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int32), ("id", ctypes.c_int32))


class _DataType(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


@dataclass(frozen=True)
class TensorView:
    """A tensor's bytes, row by row; `owner` keeps them alive.

    `dtype` is the manifest's word, or another library's for what no engine takes.
    """

    address: int
    dtype: str
    shape: tuple[int, ...]
    on_device: bool
    owner: object


def view_tensor(name: str, value: object, stream: int, gpu: int) -> TensorView:
    """Return the address of an array or DLPack tensor, without copying what is contiguous.

    Args:
        name: what errors call it.
        value: a numpy array (bf16 as ml_dtypes'), or anything with DLPack.
        stream: the CUDA stream that will read it.
        gpu: the number of the GPU that will.

    Raises:
        EngineError: it is neither, can't be exported, is on another GPU, or isn't contiguous
            there.
    """
    if isinstance(value, np.ndarray):
        return _view_array(name, value)
    if not hasattr(value, "__dlpack__") or not hasattr(value, "__dlpack_device__"):
        raise EngineError(
            f"input {name} is a {type(value).__name__}, neither a numpy array nor a DLPack tensor"
        )
    try:
        on_device = value.__dlpack_device__()[0] in (CUDA, CUDA_MANAGED)
        # 0 means no stream to DLPack; its word for CUDA's default stream is 1
        capsule = value.__dlpack__(stream=stream or 1) if on_device else value.__dlpack__()
    except (AttributeError, BufferError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise EngineError(f"input {name} can't be taken by DLPack: {reason}") from error
    return _view_capsule(name, capsule, value, gpu)


def _view_array(name: str, array: Array) -> TensorView:
    plain = array.dtype.kind in "fiub" or array.dtype == NUMPY["bf16"]
    if not plain or not array.dtype.isnative:
        raise EngineError(f"input {name} has dtype {array.dtype.str}")
    known = {dtype: word for word, dtype in NUMPY.items()}
    dtype = known.get(array.dtype, array.dtype.name)
    packed = np.ascontiguousarray(array).reshape(array.shape)
    return TensorView(packed.ctypes.data, dtype, array.shape, False, packed)


def _view_capsule(name: str, capsule: object, value: object, gpu: int) -> TensorView:
    tensor = _read_capsule(name, capsule)
    shape = tuple(tensor.shape[: tensor.ndim])
    device = tensor.device.type
    if device not in (CPU, CUDA, CUDA_HOST, CUDA_MANAGED):
        raise EngineError(f"input {name} is on a device that isn't CUDA's (DLPack type {device})")
    on_device = device in (CUDA, CUDA_MANAGED)
    if device == CUDA and tensor.device.id != gpu:
        raise EngineError(f"input {name} is on GPU {tensor.device.id}, the engine is on {gpu}")
    address = (tensor.data or 0) + tensor.byte_offset
    dtype = _dtype_name(tensor.dtype)
    if tensor.strides and not _is_packed(shape, tensor.strides[: tensor.ndim]):
        if on_device or dtype not in NUMPY:
            hint = "pass it contiguous: x.contiguous()"
            raise EngineError(f"input {name} isn't contiguous", hint)
        strides = tuple(n * NUMPY[dtype].itemsize for n in tensor.strides[: tensor.ndim])
        return _view_array(name, _pack(address, dtype, shape, strides))
    return TensorView(address, dtype, shape, on_device, (capsule, value))


def _read_capsule(name: str, capsule: object) -> Any:
    get = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    for kind, struct in ((b"dltensor", _Tensor), (b"dltensor_versioned", _Versioned)):
        try:
            pointer = get(capsule, kind)
        except ValueError:  # a capsule of another name
            continue
        found: Any = ctypes.cast(pointer, ctypes.POINTER(struct)).contents
        return found if struct is _Tensor else found.tensor
    raise EngineError(f"input {name} can't be taken by DLPack: it gives no tensor's capsule")


def _dtype_name(dtype: Any) -> str:
    word = DTYPES.get((dtype.code, dtype.bits))
    if word is not None and dtype.lanes == 1:
        return word
    kind = KINDS[dtype.code] if dtype.code < len(KINDS) else f"dtype {dtype.code}:"
    return f"{kind}{dtype.bits}" + (f"x{dtype.lanes}" if dtype.lanes != 1 else "")


def _is_packed(shape: tuple[int, ...], strides: list[int]) -> bool:
    """Tell whether rows follow each other; the stride of a dimension of one says nothing."""
    step = 1
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return 0 in shape
        step *= size
    return True


def _pack(address: int, dtype: str, shape: tuple[int, ...], strides: tuple[int, ...]) -> Array:
    """Return a packed copy of strided host memory."""
    size = (
        sum((n - 1) * step for n, step in zip(shape, strides, strict=True)) if 0 not in shape else 0
    )
    raw = (ctypes.c_char * (size + NUMPY[dtype].itemsize)).from_address(address)
    return np.ndarray(shape, NUMPY[dtype], memoryview(raw).cast("B"), 0, strides).copy()
