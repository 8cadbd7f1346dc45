"""CUDA's first GPU as NVIDIA's management library sees it. Written from its docs, not run yet.

https://docs.nvidia.com/deploy/nvml-api: nvmlDeviceGetMemoryInfo, nvmlDeviceGetClockInfo,
nvmlDeviceGetCurrentClocksEventReasons, nvmlDeviceGetComputeRunningProcesses,
nvmlDeviceGetUtilizationRates, nvmlDeviceGetTotalEnergyConsumption.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

from wanrt.machine.visible import ListedGpu, choose_gpu

__all__ = [
    "Clocks", "free_gpu_bytes", "gpu_processes", "gpu_utilisation", "read_clocks", "read_energy",
]  # fmt: skip

# nvmlClocksEventReason*: what holds a clock down against its user's will
REASONS = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "thermal, software",
    0x40: "thermal, hardware",
    0x80: "power brake",
}


@dataclass(frozen=True)
class Clocks:
    """A GPU's SM clock in MHz while a bench measured, and why it was held down, by NVML."""

    min_mhz: int
    max_mhz: int
    throttled: tuple[str, ...] = ()


def free_gpu_bytes() -> int | None:
    """Return the GPU's free memory, or None where it isn't known."""
    with _gpu() as (nvml, handle):
        if nvml is not None:
            return int(nvml.nvmlDeviceGetMemoryInfo(handle).free)
    return None


def gpu_processes() -> tuple[int, ...]:
    """Return the process ids that compute on the GPU, this one's apart."""
    with _gpu() as (nvml, handle):
        if nvml is not None:
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            return tuple(process.pid for process in running if process.pid != os.getpid())
    return ()


def gpu_utilisation() -> float | None:
    """Return the share of the last second or so that the GPU computed in, or None if unknown."""
    with _gpu() as (nvml, handle):
        if nvml is not None:
            return int(nvml.nvmlDeviceGetUtilizationRates(handle).gpu) / 100
    return None


def read_clocks() -> Clocks | None:
    """Return the SM clock right now and what holds it down, or None where it isn't known."""
    with _gpu() as (nvml, handle):
        if nvml is not None:
            mhz = int(nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM))
            mask = int(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle))
            return Clocks(mhz, mhz, tuple(why for bit, why in REASONS.items() if mask & bit))
    return None


def read_energy() -> float | None:
    """Return the joules that the GPU used since its driver was loaded, or None if not known.

    Volta and later count them, by the millijoule.
    """
    with _gpu() as (nvml, handle):
        if nvml is not None:
            return int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1000
    return None


@contextmanager
def _gpu() -> Iterator[tuple[Any, Any]]:
    """Give the library and the GPU's handle, or None for both; its errors mean unknown."""
    nvml, handle = _open()
    try:
        yield nvml, handle
    except Exception as error:
        if nvml is None or not isinstance(error, nvml.NVMLError):
            raise


@cache
def _open() -> tuple[Any, Any]:
    try:
        import pynvml
    except ImportError:
        return None, None
    try:
        pynvml.nvmlInit()
        places = range(pynvml.nvmlDeviceGetCount())
        handles = [pynvml.nvmlDeviceGetHandleByIndex(place) for place in places]
        chosen = choose_gpu([_describe(pynvml, handle) for handle in handles])
    except pynvml.NVMLError:
        return None, None
    return (None, None) if chosen is None else (pynvml, handles[chosen])


def _describe(nvml: Any, handle: Any) -> ListedGpu:
    return ListedGpu(str(nvml.nvmlDeviceGetUUID(handle)), str(nvml.nvmlDeviceGetName(handle)))
