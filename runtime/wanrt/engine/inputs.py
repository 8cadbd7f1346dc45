"""Seeded inputs of a workload: unit normal, or uniform where the manifest gives a range."""

from __future__ import annotations

import math
import zlib

import numpy as np
import psutil

from wanrt.errors import EngineError
from wanrt.manifest.fields import TensorSpec
from wanrt.manifest.schema import Manifest, Workload
from wanrt.storage.dtypes import Array, numpy_dtype
from wanrt.terminal.units import show_bytes

__all__ = ["make_inputs"]


def make_inputs(manifest: Manifest, workload: Workload, seed: int) -> dict[str, Array]:
    """Return the data inputs of one forward.

    An input depends on the seed, its name and its shape alone, so that every engine of a model is
    fed the same values, rounded to its dtype.

    Raises:
        EngineError: the manifest doesn't give an input's shape, or more than memory holds.
    """
    data = {spec: _shape(spec, workload) for spec in manifest.data_inputs}
    needed = sum(
        math.prod(shape) * numpy_dtype(spec.dtype).itemsize for spec, shape in data.items()
    )
    if needed > (total := psutil.virtual_memory().total):
        raise EngineError(
            f"the inputs of a forward are {show_bytes(needed)}, and this machine has "
            f"{show_bytes(total)}"
        )
    return {spec.name: _draw(spec, shape, seed) for spec, shape in data.items()}


def _shape(spec: TensorSpec, workload: Workload) -> tuple[int, ...]:
    shape = workload.shapes.get(spec.name, spec.shape)
    sizes = tuple(dim for dim in shape if isinstance(dim, int))
    if len(sizes) != len(shape):
        raise EngineError(f"the workload gives no shape of input {spec.name}", "rebuild the engine")
    return sizes


def _draw(spec: TensorSpec, shape: tuple[int, ...], seed: int) -> Array:
    rng = np.random.default_rng([seed, zlib.crc32(spec.name.encode())])
    if spec.range is None:
        values = rng.standard_normal(shape, dtype=np.float32)
    else:
        low, high = spec.range
        values = (low + (high - low) * rng.random(shape, dtype=np.float32)).astype(np.float32)
    return values.astype(numpy_dtype(spec.dtype))
