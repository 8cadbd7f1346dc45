"""`wanexport estimate`: what engines would cost, before anything is built."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanexport.build.request import MODES, BuildRequest, check_usage
from wanexport.cli.options import (
    Batch,
    ConfigName,
    EngineDtype,
    Frames,
    Height,
    ModeName,
    Quiet,
    TargetNames,
    Width,
    choose_modes,
    parse_numbers,
    resolve_config,
)
from wanexport.errors import UsageError
from wanexport.model.config import DEMO
from wanrt.terminal.progress import Reporter
from wanrt.terminal.screen import print_line

if TYPE_CHECKING:
    from wanexport.compiled import CompiledCost

__all__ = ["estimate"]


def estimate(
    config: ConfigName = DEMO,
    rank: Annotated[
        list[int] | None,
        typer.Option("--rank", metavar="N", min=1, help="Rank of an adapter; repeatable."),
    ] = None,
    mode: Annotated[
        list[ModeName] | None,
        typer.Option(
            "--mode",
            metavar="|".join(MODES),
            help="How the engine holds the adapter; repeatable [default: all four].",
        ),
    ] = None,
    targets: TargetNames = None,
    dtype: EngineDtype = None,
    width: Width = None,
    height: Height = None,
    frames: Frames = None,
    batch: Batch = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device",
            metavar="NAME",
            help="Device to predict for, such as H100, or cpu for this machine; repeatable "
            "[default: all].",
        ),
    ] = None,
    compiled: Annotated[
        bool,
        typer.Option(
            "--compiled",
            help="Also have TensorRT-RTX build plans of two layers, and count what its kernels "
            "move; needs --device, takes minutes.",
        ),
    ] = False,
    cards: Annotated[
        str | None,
        typer.Option(
            metavar="N,N",
            help="Also predict one forward over so many cards of each device, as 1,2,4,8.",
        ),
    ] = None,
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save all figures as JSON; - is standard output."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace a FILE that estimate didn't write.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Estimate what engines cost, before building any.

    Prints parameters, bytes, flops and memory, and the best speed that each device allows. Needs
    neither checkpoint nor GPU.
    """
    from wanexport.cli.text.estimate import costs_to_json, render_costs
    from wanexport.cost import choose_devices, predict_engines, price_engines
    from wanrt.storage.files import check_writable, write_text

    modes = choose_modes(mode)
    resolved = resolve_config(config, dtype, width=width, height=height, frames=frames, batch=batch)
    if compiled and not device:
        raise UsageError("--compiled needs --device", "add --device 'RTX 5090'")
    if rank is None and set(modes) - {"full"}:
        raise UsageError("all modes but full need a rank", "add --rank 32")
    request = BuildRequest(
        config=resolved,
        modes=modes or (MODES if rank else ("full",)),
        ranks=tuple(dict.fromkeys(rank or ())),
        targets=tuple(targets or ()),
    )
    check_usage(request)
    numbers = parse_numbers("--cards", () if cards is None else (cards,))
    if json is not None and str(json) != "-":
        check_writable(json, kind=rb'\{\s*"schema"', force=force)
    with Reporter(quiet=quiet).work("measuring the device"):
        devices = choose_devices(device or (), resolved.dtype)
    costs = price_engines(request)
    outlooks = [predict_engines(request, device, numbers) for device in devices]
    read: tuple[CompiledCost, ...] = ()
    if compiled:
        from wanexport.compiled import compile_engines

        read = compile_engines(request, devices, Reporter(quiet=quiet))
    to_stdout = json is not None and str(json) == "-"
    text = render_costs(resolved, costs, outlooks, read)
    print_line(text, sys.stderr if to_stdout else sys.stdout)
    if to_stdout:
        print_line(costs_to_json(resolved, costs, outlooks, read), end="")
    elif json is not None:
        write_text(json, costs_to_json(resolved, costs, outlooks, read))
        print_line(f"saved {json}", sys.stderr)
