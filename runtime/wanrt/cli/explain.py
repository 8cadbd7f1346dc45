"""`wanrt explain`: the kernels of an engine, what each moves and computes, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanrt.cli.options import EngineFolder, Quiet
from wanrt.terminal.screen import print_line

if TYPE_CHECKING:
    from wanrt.machine.devices import DeviceRates

__all__ = ["explain"]


def explain(
    folder: EngineFolder,
    against: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Show only the kernels that differ from this engine's."),
    ] = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Device for a plan's compiled bound, e.g. 'RTX 5090'; repeatable [default: all].",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show every operand's dtype and shape.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    quiet: Quiet = False,
) -> None:
    """List what an engine's kernels move and compute, by part of the model. Needs no GPU.

    The kernels of a TensorRT-RTX plan are read from it, those of a TensorRT engine from the account
    that its build on a GPU has kept. The compiled bound is the time that they
    take at best on a device, each at its full rate or bandwidth, one after the other.
    An ONNX Runtime engine runs on the CPU, and the time that each operator took there is shown.
    """
    from wanrt.cli.explain_json import to_json
    from wanrt.cli.explain_text import to_text
    from wanrt.errors import EngineError
    from wanrt.explain.explained import explain_engine
    from wanrt.terminal.progress import Reporter

    reporter = Reporter(quiet=quiet)
    explained = explain_engine(folder, reporter)
    other = None if against is None else explain_engine(against, reporter)
    if other is not None and (other.forward_s is None) != (explained.forward_s is None):
        raise EngineError(
            f"{folder} and {against} can't be compared: measured times and a plan's bounds differ",
            "compare engines of one backend",
        )
    if device and explained.forward_s is not None:
        raise EngineError(
            f"{folder} has no compiled bound: its operators' times are measured on this CPU",
            "leave out --device",
        )
    devices = _choose_devices(device or ()) if explained.forward_s is None else []
    if json:
        print_line(to_json(explained, other, devices))
    else:
        print_line(to_text(explained, other, devices, verbose=verbose))


def _choose_devices(names: list[str] | tuple[str, ...]) -> list[DeviceRates]:
    from wanrt.machine.devices import find_device, load_devices

    devices = load_devices()
    return [find_device(name, devices) for name in names] or list(devices.values())
