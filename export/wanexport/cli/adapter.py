"""`wanexport adapter`: the canonical adapter that an engine loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wanexport.cli.options import Quiet
from wanrt.terminal.screen import print_line

__all__ = ["adapter"]


def adapter(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="LoRA files; their ranks add up."),
    ],
    engine: Annotated[
        Path,
        typer.Option("--for", metavar="ENGINE", help="Engine folder that will load the adapter."),
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="File to write, .safetensors."),
    ],
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output if it exists.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Convert LoRA files to an adapter that an engine can load.

    Several files are combined into one adapter. Strengths are given where it is loaded.
    """
    from wanexport.lora.convert import make_canonical
    from wanexport.lora.find import parse_lora
    from wanrt.terminal.progress import Reporter

    loras = [parse_lora(file) for file in files]
    rank = make_canonical(loras, engine, output, Reporter(quiet=quiet), force=force)
    print_line(f"saved {output} (rank {rank})")
