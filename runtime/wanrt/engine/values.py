"""Check values: they must be finite and small enough for their products to be finite."""

from __future__ import annotations

import ml_dtypes
import numpy as np

from wanrt.storage.dtypes import Array

__all__ = ["is_finite", "is_usable"]

# The bits of 2^64, the square root of what fp32 and bf16 hold, and of fp16's largest value. Floats
# of one sign are ordered as their bits are, and integers compare ten times as fast as bf16.
LARGEST: dict[np.dtype[np.generic], int] = {
    np.dtype(np.float32): 0x5F80_0000,
    np.dtype(np.float16): 0x7BFF,
    np.dtype(ml_dtypes.bfloat16): 0x5F80,
}


def is_finite(array: Array) -> bool:
    """Tell whether all values are finite; integers always are."""
    return array.dtype.kind in "iub" or bool(np.isfinite(array).all())


def largest(array: Array) -> float:
    """Return the largest absolute value; of an empty array 0."""
    return float(np.abs(array.astype(np.float32)).max(initial=0.0))


def limit(dtype: np.dtype[np.generic]) -> float:
    """Return the largest value that is usable."""
    bits = np.array(LARGEST[dtype], f"u{dtype.itemsize}")
    return float(bits.view(dtype))


def is_usable(array: Array) -> bool:
    """Tell whether all values are finite, and so small that a product of two of them is, too."""
    most, bits = LARGEST[array.dtype], 8 * array.itemsize
    if not array.size:
        return True
    signed, unsigned = array.view(f"i{array.itemsize}"), array.view(f"u{array.itemsize}")
    sign = 1 << (bits - 1)
    return int(signed.max()) <= most and int(unsigned.max()) <= sign | most
