"""What a bench ran on: processor, cores, memory, GPU, versions."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path

import psutil

from wanrt.machine.cores import usable_cores
from wanrt.machine.nvml import gpu_processes, gpu_utilisation
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

    @property
    def lasting(self) -> Machine:
        """The machine without what was so for the moment only."""
        return replace(self, load_average=0.0, gpu_processes=(), gpu_utilisation=None)

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
    gpu, driver = _describe_gpu() if device == "cuda" else (None, None)
    return Machine(
        processor=processor_name(),
        cores=usable_cores(),
        threads=threads or usable_cores(),
        memory_bytes=psutil.virtual_memory().total,
        gpu=gpu,
        driver=driver,
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


def _describe_gpu() -> tuple[str, str]:
    query = ["nvidia-smi", "--query-gpu=uuid,name,driver_version", "--format=csv,noheader"]
    try:
        out = subprocess.run(query, capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return "unknown GPU", "unknown"
    rows = [line.split(", ") for line in out.splitlines() if line.count(", ") == 2]
    chosen = choose_gpu([ListedGpu(uuid, name) for uuid, name, _ in rows])
    if chosen is None:
        return "unknown GPU", rows[0][2] if rows else "unknown"
    return rows[chosen][1], rows[chosen][2]


def _version(*distributions: str) -> str:
    for distribution in distributions:
        try:
            return metadata.version(distribution)
        except metadata.PackageNotFoundError:
            continue
    return "none"
