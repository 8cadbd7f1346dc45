"""What a bench ran on: processor, cores, memory, GPU, versions."""

from __future__ import annotations

import os
import platform
import re
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import psutil

from wanrt.machine.cores import usable_cores
from wanrt.machine.nvml import gpu_processes, gpu_utilisation
from wanrt.machine.smi import query_gpus
from wanrt.machine.visible import ListedGpu, choose_gpu

__all__ = ["Machine", "describe_machine", "processor_name"]

TENSORRT = ("tensorrt-cu13-bindings", "tensorrt-cu12-bindings", "tensorrt")
TENSORRT_RTX = ("tensorrt-rtx-cu13-bindings", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx")
"""Distributions that the libraries may be installed as."""


@dataclass(frozen=True)
class Machine:
    """The hardware and versions that a result depends on."""

    processor: str
    cores: int
    threads: int
    memory_bytes: int
    gpu: str | None
    driver: str | None
    onnxruntime: str
    wanrt: str
    python: str
    system: str
    load_average: float
    """Runnable processes over the last minute, before the bench."""
    gpu_processes: tuple[int, ...] = ()
    """Other processes on the GPU before the bench."""
    tensorrt: str = "none"
    tensorrt_rtx: str = "none"
    gpu_utilisation: float | None = None
    """Share of the time, 0 to 1, that the GPU computed in the second or so before the bench."""
    torch: str | None = None
    """The version that rivals ran with, if there were any."""
    gpu_uuid: str | None = None
    """Which card it is: two of one model differ by a few per cent."""
    gpu_power_limit_w: float | None = None
    """What the driver lets it draw, in W."""

    @property
    def lasting(self) -> Machine:
        """The machine's lasting properties, without its momentary state."""
        return replace(self, load_average=0.0, gpu_processes=(), gpu_utilisation=None)

    def list_differences(self, other: Machine) -> dict[str, tuple[object, object]]:
        """Return what lasts and differs from another machine: name -> (its own, the other's).

        What one of them doesn't know (torch without rivals, a card's facts in older results, or
        without a driver's tool) doesn't count.
        """
        mine, theirs = vars(self.lasting), vars(other.lasting)
        optional = ("torch", "gpu_uuid", "gpu_power_limit_w")
        return {
            name: (value, theirs[name])
            for name, value in mine.items()
            if value != theirs[name] and not (name in optional and None in (value, theirs[name]))
        }

    @property
    def headline(self) -> tuple[str, ...]:
        """What stands above every table."""
        libraries = {
            "onnxruntime": self.onnxruntime,
            "TensorRT": self.tensorrt,
            "TensorRT-RTX": self.tensorrt_rtx,
            "torch": self.torch or "none",
        }
        versions = [f"{name} {what}" for name, what in libraries.items() if what != "none"]
        if self.gpu is not None:
            return (self.gpu, f"driver {self.driver}", *versions)
        return (self.processor, f"{self.cores} cores", f"{self.threads} threads", *versions)


def describe_machine(device: str, threads: int | None, rivals: bool = False) -> Machine:
    """Return what this machine is; nothing on it is changed.

    Args:
        device: whose GPU to describe.
        threads: on a CPU; by default one per usable core.
        rivals: whether torch's version counts.
    """
    card = _describe_gpu() if device == "cuda" else _Card()
    return Machine(
        processor=processor_name(),
        cores=usable_cores(),
        threads=threads or usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=card.name,
        driver=card.driver,
        onnxruntime=_version("onnxruntime", "onnxruntime-gpu"),
        wanrt=_version("wanexport"),
        python=platform.python_version(),
        system=platform.platform(),
        load_average=os.getloadavg()[0],
        gpu_processes=gpu_processes() if device == "cuda" else (),
        tensorrt=_version(*TENSORRT) if device == "cuda" else "none",
        tensorrt_rtx=_version(*TENSORRT_RTX) if device == "cuda" else "none",
        gpu_utilisation=gpu_utilisation() if device == "cuda" else None,
        torch=_version("torch") if rivals else None,
        gpu_uuid=card.uuid,
        gpu_power_limit_w=card.power_limit_w,
    )


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass
    return platform.processor() or platform.machine()


@dataclass(frozen=True)
class _Card:
    """What nvidia-smi says of CUDA's first GPU."""

    name: str | None = None
    driver: str | None = None
    uuid: str | None = None
    power_limit_w: float | None = None


def _describe_gpu() -> _Card:
    rows = query_gpus(("uuid", "name", "driver_version", "power.limit")) or []
    chosen = choose_gpu([ListedGpu(uuid, name) for uuid, name, *_ in rows])
    if chosen is None:
        return _Card("unknown GPU", rows[0][2] if rows else "unknown")
    uuid, name, driver, limit = rows[chosen]
    return _Card(name, driver, uuid, float(limit) if re.fullmatch(r"[\d.]+", limit) else None)


def _version(*distributions: str) -> str:
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "none"
