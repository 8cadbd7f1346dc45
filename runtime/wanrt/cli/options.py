"""Flags that several commands share, and what they are parsed as."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanrt.terminal.units import parse_bytes

if TYPE_CHECKING:
    from wanrt.engine.engine import DeviceKind

__all__ = [
    "ENGINES", "INTERRUPTED", "CudaGraph", "DeviceName", "EngineFolder", "Engines", "Force",
    "OnDevice", "Quiet", "Threads", "WeightStreaming", "WorkloadName", "device_kind",
    "parse_percent", "parse_size",
]  # fmt: skip

INTERRUPTED = 130
"""The exit status after Ctrl-C, as a shell has it."""
ENGINES = [Path("engines")]


class DeviceName(StrEnum):
    """Where engines run; auto is the GPU for TensorRT's, the CPU for others."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


def device_kind(name: DeviceName) -> DeviceKind | None:
    """Return the device that was named; None if it is the engines' choice."""
    devices: dict[DeviceName, DeviceKind] = {DeviceName.cpu: "cpu", DeviceName.cuda: "cuda"}
    return devices.get(name)


def parse_size(text: str) -> int:
    """Parse 20GiB as bytes."""
    try:
        return parse_bytes(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no size, like 20GiB") from None


def parse_percent(text: str) -> float:
    """Parse 0.5% as 0.005."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / 100
    except ValueError:
        value = -1.0
    if not text.strip().endswith("%") or not 0 < value < 1:
        raise typer.BadParameter(f"{text!r} is no percentage, like 0.5%")
    return value


Engines = Annotated[
    list[Path] | None, typer.Argument(help="Engine folders, or folders of them; engines/.")
]
EngineFolder = Annotated[Path, typer.Argument(metavar="DIR", help="An engine folder.")]
OnDevice = Annotated[DeviceName, typer.Option("--device", help="Where; auto: as they need.")]
Threads = Annotated[
    int | None, typer.Option(min=1, max=1024, help="CPU threads; one per usable core by default.")
]
WorkloadName = Annotated[
    str | None, typer.Option("--workload", metavar="NAME", help="One workload of a dynamic engine.")
]
Force = Annotated[
    bool, typer.Option("--force", help="Replace an output that this command didn't write.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress on stderr.")]
WeightStreaming = Annotated[
    int | None,
    typer.Option(
        "--weight-streaming",
        metavar="SIZE",
        parser=parse_size,
        help="TensorRT: weights on the GPU.",
    ),
]
CudaGraph = Annotated[bool, typer.Option(help="TensorRT: run as a CUDA graph.")]
