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
    engine: Annotated[Path, typer.Argument(metavar="ENGINE", help="Engine folder.")],
    output: Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Folder to write.")],
    force: Annotated[
        bool,
        typer.Option("--force", help="Replace an engine in DIR, which may be ENGINE itself."),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Copy an engine without hard links, for other tools.

    onnx.load and polygraphy inspect refuse models whose weight files are hard links.
    """
    from wanexport.detach import detach_engine
    from wanrt.terminal.progress import Reporter

    copied = detach_engine(engine, output, Reporter(quiet=quiet), force=force)
    print_line(f"saved {output} ({show_bytes(copied)})")
