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
    "ENGINES", "INTERRUPTED", "RUNNING", "CudaGraph", "DeviceName", "EngineFolder", "Engines",
    "Force", "OnDevice", "Quiet", "Threads", "WeightStreaming", "WorkloadName", "device_kind",
    "parse_percent", "parse_size",
]  # fmt: skip

INTERRUPTED = 130
"""The exit status after Ctrl-C, as a shell has it."""
ENGINES = [Path("engines")]
RUNNING = "Running"


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
        raise typer.BadParameter(f"{text!r} isn't a size, such as 20GiB") from None


def parse_percent(text: str) -> float:
    """Parse 0.5% as 0.005."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / 100
    except ValueError:
        value = -1.0
    if not text.strip().endswith("%") or not 0 < value < 1:
        raise typer.BadParameter(f"{text!r} isn't a percentage, such as 0.5%")
    return value


Engines = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="DIR", help="Engine folders, or folders that hold them [default: engines/]."
    ),
]
EngineFolder = Annotated[Path, typer.Argument(metavar="DIR", help="Engine folder.")]
OnDevice = Annotated[
    DeviceName,
    typer.Option(
        "--device",
        help="Device to run on; auto picks the GPU for TensorRT engines and the CPU otherwise.",
        rich_help_panel=RUNNING,
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=1,
        max=1024,
        help="CPU threads [default: one per usable core].",
        rich_help_panel=RUNNING,
    ),
]
WorkloadName = Annotated[
    str | None,
    typer.Option(
        "--workload",
        metavar="NAME",
        help="Size to run a dynamic engine at, such as 832x480x81 [default: its first].",
        rich_help_panel=RUNNING,
    ),
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
        help="Bytes of weights to keep on the GPU, such as 20GiB; the rest is streamed. TensorRT "
        "only [default: all].",
        rich_help_panel=RUNNING,
    ),
]
CudaGraph = Annotated[
    bool,
    typer.Option(
        help="Launch each forward as one CUDA graph. TensorRT only.", rich_help_panel=RUNNING
    ),
]
