"""`wanexport study`: a grid of engines, built, measured and compared."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanexport.cli.options import Quiet
from wanexport.errors import ConfigError, UsageError
from wanrt.terminal.progress import Reporter
from wanrt.terminal.screen import print_line

if TYPE_CHECKING:
    from wanexport.cluster.run import Pool
    from wanexport.cluster.unit import CardKind
    from wanexport.study.cells import Group
    from wanexport.study.file import Study
    from wanexport.study.run import Progress
    from wanexport.study.units import Places

__all__ = ["study"]


def _complete_study(incomplete: str) -> list[str]:
    from wanexport.study.file import list_studies

    return [name for name in list_studies() if name.startswith(incomplete)]


def study(
    file: Annotated[
        str,
        typer.Argument(
            metavar="FILE",
            help="The study's TOML file, or the name of a shipped one.",
            autocompletion=_complete_study,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", help="Folder for adapters, engines, results and the page."),
    ],
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="List the engines with what they write and about how long they take.",
        ),
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Run on a Ray cluster: HOST:PORT of its head, auto for the one that runs here, "
            "local for one of this machine alone. All machines must see DIR at the same path.",
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Build and measure a grid of engines, and show which rank, layers and mode to choose.

    What is there already is kept, so a study that was interrupted goes on where it was. What
    fails is shown with its reason, and is tried again by the next run; the rest goes on.
    """
    from wanexport.cli.text.study import format_cells
    from wanexport.storage.disk import check_disk, check_out
    from wanexport.study.cells import list_groups
    from wanexport.study.file import load_study
    from wanexport.study.record import choose_estimates
    from wanexport.study.units import Places, list_built

    asked = load_study(file)
    devices = choose_estimates(asked)
    groups = list_groups(asked)
    places = Places(out.absolute())
    check_out(out)
    text, write_bytes = format_cells(asked, groups, list_built(asked, groups, places))
    if dry_run:
        print_line(text)
        return
    check_disk(out, write_bytes)
    from wanexport.study.record import write_record

    reporter = Reporter(quiet=quiet)
    reporter.log(text)
    out.mkdir(parents=True, exist_ok=True)
    on_change = partial(write_record, asked, groups, places, devices)
    progress = _run(asked, groups, places, ray, reporter, on_change)
    shown = _show(places, quiet=quiet)
    if progress.failures or not shown:
        raise typer.Exit(1)


def _run(
    asked: Study,
    groups: Sequence[Group],
    places: Places,
    ray: str | None,
    reporter: Reporter,
    on_change: Callable[[Progress], None],
) -> Progress:
    from wanexport.study.run import begin_here, run_study

    open_pool, on = _choose_pool(asked, places, ray, begin_here)
    return run_study(
        asked,
        groups,
        places,
        open_pool,
        on=on,
        joining_s=0.0 if ray is None else 30.0,
        log=reporter.log,
        on_change=on_change,
    )


def _choose_pool(
    asked: Study,
    places: Places,
    ray: str | None,
    begin_here: Callable[[Places], CardKind | None],
) -> tuple[Callable[[], AbstractContextManager[Pool]], CardKind | None]:
    """Return where cards come from, and the kind that is measured; None is a processor."""
    from wanexport.cluster.unit import CardKind

    wish = asked.bench.card
    on = CardKind(wish.name, wish.memory_gib, wish.power_limit_w) if wish else None
    if ray is not None:
        if on is None and asked.bench.device == "cuda":
            raise UsageError("--ray needs to know which card", "add bench.card to the study")
        from wanexport.cluster.ray_pool import open_ray

        return partial(open_ray, ray, places.out), on
    here = begin_here(places)
    if asked.bench.device == "cpu":
        on = None
    elif here is None:
        raise ConfigError(
            "bench.device is cuda, and there is no GPU here",
            "run it where one is, or on a cluster with --ray",
        )
    from wanexport.cluster.local_pool import open_local

    return partial(open_local, places.out), on or (here if asked.bench.device == "cuda" else None)


def _show(places: Places, *, quiet: bool) -> bool:
    """Have `wanrt report` print what was found, and make the page."""
    argv = [sys.executable, "-P", "-m", "wanrt", "report", str(places.record)]
    return subprocess.run([*argv, *(("--quiet",) if quiet else ())], check=False).returncode == 0
