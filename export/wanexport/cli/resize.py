"""`wanexport resize`: a LoRA at a smaller rank."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wanexport.cli.options import Quiet
from wanexport.model.config import list_configs
from wanrt.manifest.fields import Dtype
from wanrt.terminal.screen import print_line

__all__ = ["resize"]


def _complete_config(incomplete: str) -> list[str]:
    return [name for name in list_configs() if name.startswith(incomplete)]


def resize(
    file: Annotated[
        str,
        typer.Argument(metavar="FILE", help="LoRA file of any dialect, or FILE:STRENGTH."),
    ],
    rank: Annotated[
        int, typer.Option("--rank", metavar="N", min=1, help="Largest rank of any module.")
    ],
    output: Annotated[
        Path,
        typer.Option("-o", "--output", metavar="FILE", help="File to write, .safetensors."),
    ],
    config: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Configuration of the LoRA's model [default: the first shipped one that fits].",
            autocompletion=_complete_config,
        ),
    ] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="Data type of the output [default: the one that most matrices have]."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the output if it exists.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print what is captured of each module as JSON.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Resize a LoRA to a smaller rank.

    Every product is decomposed exactly, and the output holds its leading part; modules of a
    smaller rank keep theirs. Biases and norms stay as they are. A DoRA depends on its base and is
    refused.
    """
    from wanrt.terminal.progress import Reporter

    reporter = Reporter(quiet=quiet)
    with reporter.work("loading torch"):
        from wanexport.cli.text.extract import format_resized
        from wanexport.extraction.resize import resize_lora
    report = resize_lora(file, rank, output, reporter, config=config, dtype=dtype, force=force)
    print_line(report.model_dump_json(indent=1) if as_json else format_resized(report))
