"""`wanexport extract`: LoRAs of several ranks out of a full fine-tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wanexport.cli.options import Quiet, complete_targets, parse_numbers
from wanexport.lora.targets import TARGET_SETS
from wanrt.manifest.fields import Dtype
from wanrt.manifest.schema import Expert
from wanrt.terminal.screen import print_line

__all__ = ["extract"]


def extract(
    base: Annotated[
        str,
        typer.Option(
            metavar="DIR|FILE|ID",
            help="Checkpoint that was trained: a path or a repository in the Hugging Face cache.",
        ),
    ],
    finetuned: Annotated[
        str,
        typer.Option(
            metavar="DIR|FILE|ID",
            help="Checkpoint of the full fine-tune; trained parameters alone are laid over the "
            "base.",
        ),
    ],
    rank: Annotated[
        list[str],
        typer.Option(
            "--rank",
            metavar="N,...",
            help="Ranks to make a file of, separated by commas; all come of one decomposition.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="DIR", help="Folder for the files and extract.json."
        ),
    ],
    targets: Annotated[
        list[str] | None,
        typer.Option(
            "--targets",
            metavar="|".join([*TARGET_SETS, "GLOB"]),
            help="Linear layers to extract, by set or by a pattern of diffusers' names; repeat to "
            "add [default: cross-attention].",
            autocompletion=complete_targets,
        ),
    ] = None,
    dtype: Annotated[
        Dtype | None,
        typer.Option(help="Data type of the files [default: the fine-tune's]."),
    ] = None,
    expert: Annotated[
        Expert | None,
        typer.Option(help="Which of Wan2.2's two models to extract, where a folder holds both."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace another extraction in the folder.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the whole report as JSON, for scripts.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Extract LoRAs of several ranks from a full fine-tune.

    The change of every target is decomposed once, and the files hold its leading parts; nothing is
    clamped. What is there already is kept, and an interrupted extraction goes on where it was. What
    the fine-tune changed outside of the targets is in no file, and the report says how much it is.
    """
    ranks = parse_numbers("--rank", rank)
    from wanrt.terminal.progress import Reporter

    reporter = Reporter(quiet=quiet)
    with reporter.work("loading torch"):
        from wanexport.cli.text.extract import format_report
        from wanexport.extraction.extract import ExtractRequest, extract_lora
    report = extract_lora(
        ExtractRequest(
            base=base,
            finetuned=finetuned,
            ranks=ranks,
            out=output,
            targets=tuple(targets or ()),
            dtype=dtype,
            expert=expert,
            force=force,
        ),
        reporter,
    )
    print_line(report.model_dump_json(indent=1) if as_json else format_report(report, output))
