"""Progress of long work: bytes, speed and time left on a terminal, silence elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from wanexport.disk import format_bytes
from wanexport.trt_job import Phase

__all__ = ["Reporter"]

LONG_S = 2.0

Advance = Callable[[int], None]


class Reporter:
    """Says what is being done on stderr, with a bar for each long piece if that is a terminal."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._console = Console(stderr=True, quiet=quiet)
        self._disabled = quiet or not self._console.is_terminal

    def log(self, message: str) -> None:
        """Print a line to stderr, above any bar."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bytes(self, description: str, total: int | None) -> Iterator[Advance]:
        """Show work counted in bytes; the caller gets a function to advance it by.

        What took long is told afterwards too, for logs that have no bar.
        """
        done, start = 0, time.monotonic()

        def count(amount: int) -> None:
            nonlocal done
            done += amount
            advance(amount)

        columns = (DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
        with self._bar(description, total, *columns) as advance:
            yield count
        seconds = time.monotonic() - start
        if seconds >= LONG_S:
            self.log(f"{description}: {format_bytes(done)} in {seconds:.1f} s")

    @contextmanager
    def steps(self, description: str, total: int) -> Iterator[Advance]:
        """Show work counted in steps."""
        with self._bar(description, total, MofNCompleteColumn(), TimeRemainingColumn()) as advance:
            yield advance

    @contextmanager
    def phases(self, description: str) -> Iterator[Callable[[Phase], None]]:
        """Show a builder's nested phases, a bar for each that is under way."""
        self.log(description)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        with Progress(
            *columns, console=self._console, transient=True, disable=self._disabled
        ) as bars:
            tasks: dict[str, TaskID] = {}

            def show(phase: Phase) -> None:
                if phase.name not in tasks:
                    tasks[phase.name] = bars.add_task(phase.name, total=phase.steps)
                bars.update(tasks[phase.name], completed=phase.done)
                if phase.done >= phase.steps:
                    bars.remove_task(tasks.pop(phase.name))

            yield show

    @contextmanager
    def _bar(self, description: str, total: int | None, *columns: object) -> Iterator[Advance]:
        layout = (TextColumn("{task.description}"), BarColumn(), *columns)
        with Progress(
            *layout,  # type: ignore[arg-type]
            console=self._console,
            transient=True,
            disable=self._disabled,
        ) as progress:
            task = progress.add_task(description, total=total)
            yield lambda amount: progress.advance(task, amount)
