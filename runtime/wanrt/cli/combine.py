"""`wanrt combine`: the results of several cards as one."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanrt.cli.options import Force
from wanrt.terminal.screen import print_line, print_result

if TYPE_CHECKING:
    from wanrt.results.cards import Combined

__all__ = ["combine"]

STARTS = {"json": rb'\{\s*"combined"', "csv": b"card,cards,", "markdown": b""}


def combine(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", help="Results that bench --json saved, one per card."),
    ],
    json: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the result as JSON; - is standard output."),
    ] = None,
    csv: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Save a line per candidate and per card as CSV; - is standard output.",
        ),
    ] = None,
    markdown: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Save the tables as Markdown; - is standard output."),
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Save a plot of the ratios as PNG and SVG here."),
    ] = None,
    force: Force = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also show what each card found.")
    ] = False,
) -> None:
    """Combine benches of several cards: what to expect of the next card.

    A card counts once, by the ratios of its own bench: prints their mean over cards with its 95%
    confidence interval, how much cards differ, and where the next card's ratio will be. Needs 3
    cards; of fewer each is shown by itself. Benches that don't compare are refused.
    """
    from wanrt.report.cards.table import render_cards
    from wanrt.results.cards import combine_cards
    from wanrt.results.json import read_results
    from wanrt.storage.files import write_text

    exports = _choose_exports({"json": json, "csv": csv, "markdown": markdown}, results, force)
    combined = combine_cards([(str(path), read_results(path)) for path in results])
    if plots is not None:
        _save_plots(combined, plots, force)
    formats = _formats()
    text = render_cards(combined, verbose)
    for kind, path in exports.items():
        if str(path) != "-":
            write_text(path, formats[kind](combined))
    to_stdout = next((kind for kind, path in exports.items() if str(path) == "-"), None)
    if to_stdout:
        print_line(text, sys.stderr, end="")
    print_result(formats[to_stdout](combined) if to_stdout else text)
    for path in exports.values():
        if str(path) != "-":
            print_line(f"saved {path}", sys.stderr)


def _choose_exports(
    asked: dict[str, Path | None], results: list[Path], force: bool
) -> dict[str, Path]:
    """Return the files to write by kind; none takes another's place or an input's."""
    from wanrt.storage.files import check_writable, real_path

    chosen = {kind: path for kind, path in asked.items() if path is not None}
    if sum(str(path) == "-" for path in chosen.values()) > 1:
        raise typer.BadParameter("only one of --json, --csv, --markdown can go to stdout")
    if len({real_path(path) for path in chosen.values()}) < len(chosen):
        raise typer.BadParameter("--json, --csv and --markdown would replace each other's file")
    for kind, path in chosen.items():
        if str(path) != "-":
            check_writable(path, results, STARTS[kind], force=force)
    return chosen


def _save_plots(combined: Combined, folder: Path, force: bool) -> None:
    """Draw the ratios over cards as a bench's page draws one card's."""
    from wanrt.errors import ResultsError, install_hint

    if not combined.pooled:
        raise ResultsError(
            "there is nothing to plot: these results have no interval over cards",
            "leave out --plots; wanrt report draws each bench",
        )
    try:
        from wanrt.report.html.page import save_plots
    except ImportError as error:
        raise ResultsError(
            f"a plot needs {error.name}, which isn't installed", install_hint("report")
        ) from None
    groups = tuple(group.group for group in combined.groups)
    save_plots(replace(combined.first, groups=groups), folder, force=force)


def _formats() -> dict[str, Callable[[Combined], str]]:
    from wanrt.report.cards.csv import to_csv
    from wanrt.report.cards.json import to_json
    from wanrt.report.cards.markdown import to_markdown

    return {"json": to_json, "csv": to_csv, "markdown": to_markdown}
