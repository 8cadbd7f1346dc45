"""`wanrt report`: one HTML file of a bench's results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from wanrt.cli.options import Force, Quiet
from wanrt.terminal.screen import print_line, print_result

__all__ = ["report"]


def report(
    results: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", help="Results that bench --json saved, or study.json of a study."
        ),
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
    """Make an HTML page of a bench's results, or of a study's.

    It is one file and holds the findings, the plots and every measured number.
    """
    from wanrt.errors import ResultsError, install_hint
    from wanrt.report.headline import summary_lines
    from wanrt.results.json import read_results
    from wanrt.results.study import is_study
    from wanrt.storage.files import check_writable, real_path, write_text
    from wanrt.terminal.progress import Reporter

    if is_study(results):
        _report_study(results, output, plots, force=force, quiet=quiet)
        return
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


def _report_study(
    record: Path, output: Path | None, plots: Path | None, *, force: bool, quiet: bool
) -> None:
    """Print what a study found, and make its page."""
    from wanrt.errors import ResultsError, install_hint
    from wanrt.report.study import render_study
    from wanrt.results.study import read_study
    from wanrt.storage.files import check_writable, write_text
    from wanrt.terminal.progress import Reporter

    if plots is not None:
        raise typer.BadParameter(
            "--plots is for a bench's results: a study has one plot, in its page"
        )
    found = read_study(record)
    inputs = (record, *(record.parent / name for name in found.benches))
    output = output or record.with_suffix(".html")
    check_writable(output, inputs, b"<!doctype html>", force=force)
    print_result(render_study(found))
    try:
        from wanrt.report.html.study_page import render_study_page
    except ImportError as error:
        raise ResultsError(
            f"a page needs {error.name}, which isn't installed", install_hint("report")
        ) from None
    with Reporter(quiet=quiet).work("plotting"):
        write_text(output, render_study_page(found))
    print_line(f"saved {output}", sys.stderr)
