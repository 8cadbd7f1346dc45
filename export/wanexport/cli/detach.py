"""`wanexport detach`: an engine folder for tools that refuse hard links."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wanexport.cli.options import Quiet
from wanrt.terminal.screen import print_line
from wanrt.terminal.units import show_bytes

__all__ = ["detach"]


def detach(
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="An engine folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="The copy.")],
    force: Annotated[
        bool, typer.Option("--force", help="Replace an engine there, ENGINE itself too.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Copy an engine with the bytes it reads, for tools that refuse hard links (onnx, netron)."""
    from wanexport.build.detach import detach_engine
    from wanrt.terminal.progress import Reporter

    copied = detach_engine(engine, output, Reporter(quiet=quiet), force=force)
    print_line(f"saved {output} ({show_bytes(copied)})")
