"""What a bench takes from the world: engines, a clock, memory; `wanrt.fake` scripts another."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from wanrt.engine import Device, Engine, check_engine, load_engine
from wanrt.machine import (
    Machine,
    available_bytes,
    describe_machine,
    free_gpu_bytes,
    private_bytes,
)
from wanrt.manifest import Manifest

__all__ = ["Lab", "RealLab"]


class Lab(Protocol):
    """Where a bench takes place."""

    def check(self, folder: Path) -> Manifest:
        """Return the manifest of an engine that this machine can load, or raise."""

    def load(self, folder: Path, workload: str) -> Engine:
        """Load an engine for one workload."""

    def now(self) -> float:
        """Return a clock in seconds."""

    def private_bytes(self) -> int | None:
        """Return the process's private memory on the device, or None if it isn't known."""

    def available_bytes(self) -> int | None:
        """Return the device memory that could still be taken, or None if it isn't known."""

    def describe(self) -> Machine:
        """Return the machine and its versions."""


@dataclass(frozen=True)
class RealLab:
    """This machine."""

    device: Device = "cpu"
    threads: int | None = None
    mapped: bool = False

    def check(self, folder: Path) -> Manifest:
        """Return the manifest of an engine that this machine can load, or raise."""
        return check_engine(folder, self.device)

    def load(self, folder: Path, workload: str) -> Engine:
        """Load an engine for one workload."""
        return load_engine(
            folder,
            device=self.device,
            threads=self.threads,
            mapped=self.mapped,
            workload=workload,
        )

    def now(self) -> float:
        """Return a monotonic clock in seconds."""
        return time.perf_counter()

    def private_bytes(self) -> int | None:
        """Return the process's private memory on the device, or None if it isn't known."""
        return private_bytes() if self.device == "cpu" else None

    def available_bytes(self) -> int | None:
        """Return the device memory that could still be taken, or None if it isn't known."""
        return available_bytes() if self.device == "cpu" else free_gpu_bytes()

    def describe(self) -> Machine:
        """Return the machine and its versions."""
        return describe_machine(self.device, self.threads)
