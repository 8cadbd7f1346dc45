"""Values on their way through memory: on one thread, and whether they are finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

__all__ = ["all_finite", "find_peak", "one_thread"]


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute on one thread while tensors stream through it.

    It waits for memory then; reading, writing and hashing need the other cores. And where cores are
    busy, several threads that wait for one another made blocks of 2 MB 30 times as slow.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def find_peak(tensor: torch.Tensor) -> float:
    """Return the largest magnitude of a tensor; NaN or infinity if one of its values is."""
    import torch

    if not tensor.numel():
        return 0.0
    if tensor.is_floating_point() and tensor.itemsize == 1:
        tensor = tensor.half()  # aminmax has no kernel for fp8
    return max(abs(float(extreme)) for extreme in torch.aminmax(tensor))  # NaN makes both NaN


def all_finite(tensor: torch.Tensor) -> bool:
    """Tell whether a tensor has neither NaN nor infinity; 25 times as fast as isfinite().all()."""
    return math.isfinite(find_peak(tensor))
