"""Progress bars on stderr, and nothing at all where that isn't a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wanrt.measuring import Progress

__all__ = ["byte_progress", "round_progress"]


@contextmanager
def round_progress() -> Iterator[Callable[[Progress], None]]:
    """Show a bench's rounds."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    console = Console(stderr=True)
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("checking", total=None)

        def show(progress: Progress) -> None:
            bar.update(
                task,
                description=progress.text,
                completed=progress.done,
                total=progress.total or None,
            )

        yield show


@contextmanager
def byte_progress(text: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show bytes done, with rate and time left."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    console = Console(stderr=True)
    with Bar(*columns, TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task(text, total=total)
        yield lambda count: bar.advance(task, count)
