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
    skip_image_keys: Annotated[
        bool,
        typer.Option(
            "--skip-image-keys",
            help="Leave out a LoRA's keys for image conditioning, where the engine's model has "
            "none.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output if it exists.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Convert LoRA files to an adapter that an engine can load.

    Several files are combined into one adapter. Strengths are given where it is loaded. A file that
    holds LoRAs of both of Wan2.2's experts is split: the engine says whose half it takes.
    """
    from wanexport.lora.convert import make_canonical
    from wanexport.lora.find import parse_lora
    from wanrt.terminal.progress import Reporter

    loras = [parse_lora(file) for file in files]
    rank = make_canonical(
        loras,
        engine,
        output,
        Reporter(quiet=quiet),
        skip_image_keys=skip_image_keys,
        force=force,
    )
    print_line(f"saved {output} (rank {rank})")
