"""`wanrt explain`: the kernels of a compiled plan, what each moves and computes, without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanrt.cli.options import EngineFolder
from wanrt.terminal.screen import print_line

if TYPE_CHECKING:
    from wanrt.cli.explain_text import Explained
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
            help="Device for the compiled bound, e.g. 'RTX 5090'; repeatable [default: all].",
        ),
    ] = None,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show every operand's dtype and shape.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """List what a TensorRT-RTX plan's kernels move and compute, by part of the model.

    The compiled bound is the time that the kernels take at best on a device, each at its full rate
    or bandwidth, one after the other. Works without a GPU.
    """
    from wanrt.cli.explain_text import to_json, to_text

    devices = _choose_devices(device or ())
    explained = _explain(folder)
    other = None if against is None else _explain(against)
    if json:
        print_line(to_json(explained, other, devices))
    else:
        print_line(to_text(explained, other, devices, verbose=verbose))


def _explain(folder: Path) -> Explained:
    from wanrt.cli.explain_text import Explained
    from wanrt.errors import EngineError
    from wanrt.explain.plan import read_kernels
    from wanrt.explain.work import examine
    from wanrt.manifest.read import read_manifest

    manifest = read_manifest(folder)
    plan = manifest.forward.plan
    if plan is None or manifest.backend != "tensorrt-rtx":
        raise EngineError(
            f"{folder}: its kernels can't be read: it is an engine of {manifest.backend}",
            "the kernels of TensorRT-RTX engines can be read",
        )
    return Explained(manifest, examine(read_kernels(folder / plan.file)))


def _choose_devices(names: list[str] | tuple[str, ...]) -> list[DeviceRates]:
    from wanrt.machine.devices import find_device, load_devices

    devices = load_devices()
    return [find_device(name, devices) for name in names] or list(devices.values())
