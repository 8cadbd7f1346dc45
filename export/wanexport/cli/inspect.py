"""`wanexport inspect`: what a LoRA or checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wanrt.terminal.screen import print_line

__all__ = ["inspect"]


def inspect(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE", help="File, folder or repository in the Hugging Face cache."
        ),
    ],
    config: Annotated[
        str | None,
        typer.Option(
            "--config",
            metavar="NAME|FILE",
            help="Configuration to check the file against [default: the shipped one that fits].",
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON, for scripts.")
    ] = False,
) -> None:
    """Show what a LoRA or checkpoint holds and where it applies.

    Exits with 1 if a build would refuse the file.
    """
    from wanexport.inspection import describe_file, format_description, format_json
    from wanexport.model.config import load_config

    description = describe_file(Path(file), load_config(config) if config else None)
    print_line(format_json(description) if as_json else format_description(description))
    if description.is_refused:
        raise typer.Exit(1)
