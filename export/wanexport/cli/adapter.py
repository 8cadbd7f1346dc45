"""`wanexport adapter`: the canonical adapter that an engine loads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wanexport.cli.options import Quiet
from wanrt.terminal.screen import print_line

__all__ = ["adapter"]


def adapter(
    files: Annotated[list[str], typer.Argument(metavar="FILE[:STRENGTH]...", help="LoRA files.")],
    engine: Annotated[Path, typer.Option("--for", metavar="ENGINE", help="One that can swap.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The canonical adapter.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make the canonical adapter that an engine loads; several files become one."""
    from wanexport.lora.convert import make_canonical
    from wanexport.lora.find import parse_lora
    from wanrt.terminal.progress import Reporter

    loras = [parse_lora(file) for file in files]
    rank = make_canonical(loras, engine, output, Reporter(quiet=quiet), force=force)
    print_line(f"saved {output} (rank {rank})")
