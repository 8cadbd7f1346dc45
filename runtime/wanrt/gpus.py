"""The GPU that is here, if there is one, by the CUDA runtime."""

from __future__ import annotations

from dataclasses import dataclass

from wanrt.errors import UnsupportedError

__all__ = ["Gpu", "find_gpu"]


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its name, and its compute capability as 8.9."""

    name: str
    capability: str


def find_gpu() -> Gpu | None:
    """Return the first visible GPU; None without one, its driver, or cuda-bindings.

    CUDA_VISIBLE_DEVICES says which are visible, and in which order.
    """
    from wanrt.cuda import open_cuda

    try:
        return open_cuda().gpu()
    except UnsupportedError:
        return None
