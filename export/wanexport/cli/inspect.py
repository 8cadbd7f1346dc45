"""`wanexport inspect`: what a LoRA or checkpoint holds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from wanexport.cli.options import Quiet
from wanexport.errors import UsageError
from wanrt.errors import UserError
from wanrt.manifest.schema import Expert
from wanrt.terminal.progress import Reporter
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
    expert: Annotated[
        Expert | None,
        typer.Option(help="Which of Wan2.2's two models to look at, or to hold a LoRA against."),
    ] = None,
    skip_image_keys: Annotated[
        bool,
        typer.Option(
            "--skip-image-keys",
            help="Leave out a LoRA's keys for image conditioning, where the model has none, as "
            "build does.",
        ),
    ] = False,
    headers_only: Annotated[
        bool,
        typer.Option(
            "--headers-only", help="Read headers alone, and don't look for values like NaN."
        ),
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print everything as JSON, for scripts.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Show what a LoRA or checkpoint holds and where it applies.

    Reads all values, to see whether they are finite. Exits with 1 if a build would refuse the file.
    """
    from wanexport.inspection.describe import describe_file
    from wanexport.inspection.description import format_json
    from wanexport.inspection.text import format_description
    from wanexport.lora.choose import Choice
    from wanexport.model.config import load_config

    try:
        description = describe_file(
            Path(file),
            load_config(config) if config else None,
            Choice(expert, skip_image_keys),
            read_values=not headers_only,
            reporter=Reporter(quiet=quiet),
        )
    except UsageError:
        raise
    except UserError as error:
        if not as_json:
            raise
        print_line(json.dumps({"path": file, "error": str(error), "hint": error.hint}, indent=1))
        raise typer.Exit(1) from None
    print_line(format_json(description) if as_json else format_description(description))
    if description.is_refused:
        raise typer.Exit(1)
