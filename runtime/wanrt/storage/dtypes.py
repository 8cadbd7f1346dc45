"""The manifest's dtypes in numpy's, ONNX's and safetensors' terms."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

__all__ = ["NUMPY", "ONNX", "SAFETENSORS", "Array", "numpy_dtype"]

Array = NDArray[np.generic]

NUMPY: dict[str, np.dtype[np.generic]] = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}
ONNX = {"fp32": 1, "fp16": 10, "bf16": 16}
SAFETENSORS = {"fp32": "F32", "fp16": "F16", "bf16": "BF16"}


def numpy_dtype(dtype: str) -> np.dtype[np.generic]:
    """Return numpy's dtype of a manifest's; bf16 is ml_dtypes'."""
    return NUMPY[dtype]
