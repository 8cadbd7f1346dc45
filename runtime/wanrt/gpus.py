"""The GPU that is here, if there is one, by the CUDA runtime."""

from __future__ import annotations

from dataclasses import dataclass

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
    try:
        from cuda.bindings import runtime
    except ImportError:
        return None
    error, count = runtime.cudaGetDeviceCount()
    if error != runtime.cudaError_t.cudaSuccess or not count:
        return None
    error, properties = runtime.cudaGetDeviceProperties(0)
    if error != runtime.cudaError_t.cudaSuccess:
        return None
    name = properties.name.rstrip(b"\0").decode()
    return Gpu(name, f"{properties.major}.{properties.minor}")
