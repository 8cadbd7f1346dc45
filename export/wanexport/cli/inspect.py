"""`wanexport inspect`: what a LoRA or checkpoint holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wanrt.terminal.screen import print_line

__all__ = ["inspect"]


def inspect(
    file: Annotated[str, typer.Argument(help="A LoRA or checkpoint: file, folder or cached id.")],
    config: Annotated[
        str | None, typer.Option("--config", metavar="NAME|FILE", help="What it is meant for.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="All of it as JSON, for scripts.")
    ] = False,
) -> None:
    """Say what a LoRA or checkpoint holds, and what would be applied where.

    Exits 1 when a build would refuse it.
    """
    from wanexport.inspection import describe_file, format_description, format_json
    from wanexport.model.config import load_config

    description = describe_file(Path(file), load_config(config) if config else None)
    print_line(format_json(description) if as_json else format_description(description))
    if description.is_refused:
        raise typer.Exit(1)
