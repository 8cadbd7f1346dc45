"""`wanrt report`: one HTML file of a bench's results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wanrt.cli.options import Force, Quiet
from wanrt.terminal.screen import print_line

__all__ = ["report"]


def report(
    results: Annotated[
        Path, typer.Argument(metavar="FILE", help="Results that bench --json saved.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="HTML file to write [default: beside the results].",
        ),
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Also save each plot as PNG and SVG here.")
    ] = None,
    force: Force = False,
    quiet: Quiet = False,
) -> None:
    """Make an HTML page of a bench's results.

    It is one file and holds the findings, the plots and every measured number.
    """
    from wanrt.errors import ResultsError, install_hint
    from wanrt.report.headline import summary_lines
    from wanrt.results.json import read_results
    from wanrt.storage.files import check_writable, real_path, write_text
    from wanrt.terminal.progress import Reporter

    result = read_results(results)
    try:
        from wanrt.report.html.page import render_page, save_plots
    except ImportError as error:
        raise ResultsError(
            f"a report needs {error.name}, which isn't installed", install_hint("report")
        ) from None
    output = output or results.with_suffix(".html")
    if real_path(output) == real_path(results):
        raise typer.BadParameter("-o would replace the results themselves")
    check_writable(output, (results,), b"<!doctype html>", force=force)
    with Reporter(quiet=quiet).work("plotting"):
        if plots is not None:
            save_plots(result, plots, force=force)
        write_text(output, render_page(result, results.stem))
    for line in summary_lines(result):
        print_line(line)
    print_line(f"saved {output}", sys.stderr)
