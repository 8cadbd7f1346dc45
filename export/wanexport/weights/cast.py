"""Cast tensors to another dtype, rounded once; overflow is refused."""

from __future__ import annotations

import torch

from wanexport.errors import CheckpointError
from wanexport.storage.dtypes import torch_dtype
from wanexport.storage.values import all_finite

__all__ = ["cast_tensor"]


def cast_tensor(tensor: torch.Tensor, dtype: str, name: str) -> torch.Tensor:
    """Return a tensor in another dtype, rounded once.

    Raises:
        CheckpointError: it holds NaN or infinity, or overflows the dtype.
    """
    result = tensor.to(torch_dtype(dtype))
    if not all_finite(result):
        if all_finite(tensor):
            raise CheckpointError(f"{name} overflows {dtype.lower()}", "build with --dtype bf16")
        raise CheckpointError(f"{name} holds NaN or infinity")
    return result
