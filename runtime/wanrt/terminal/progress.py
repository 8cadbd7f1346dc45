"""Progress of long work on stderr: bars on a terminal, elsewhere a line for what took long."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task
from rich.table import Column
from rich.text import Text

from wanrt.terminal.screen import visible
from wanrt.terminal.units import BYTES, pick, shorten, show_bytes

__all__ = ["LONG_S", "Piece", "Reporter"]

LONG_S = 2.0  # shorter work is neither shown nor logged
BAR_WIDTH = 12
FIGURES_WIDTH = 47  # "123.4/567.8 GiB  123.4 MiB/s  0:10:50 left", spinner and bar not counted
WINDOW_S = 3600.0  # a block of a 14B model takes 15 s, and time left needs several


class Piece:
    """One piece of work while it is shown."""

    def __init__(self, bars: Progress, text: str, total: int | None, unit: str) -> None:
        self._bars = bars
        self._task = bars.add_task(text, total=total, unit=unit)
        self.done = 0

    def advance(self, amount: int = 1) -> None:
        """Count so many bytes or steps more as done."""
        self.done += amount
        self._bars.update(self._task, advance=amount, refresh=not self._bars.live.auto_refresh)

    def tell(self, text: str, total: int | None = None) -> None:
        """Say what of it is being done right now, and how much it turned out to be."""
        still = not self._bars.live.auto_refresh
        self._bars.update(self._task, description=text, total=total, refresh=still)

    def close(self) -> None:
        """Show how it ended and take its bar away."""
        self._bars.refresh()
        self._bars.remove_task(self._task)


class Reporter:
    """Shows pieces of long work on stderr, one in another or one after the other.

    On a terminal a piece has a bar from its third second to its end. Anywhere, a line says
    afterwards what took longer than that. What fails says nothing and leaves the terminal clean.

    Args:
        quiet: say nothing at all.
        still: draw at once, and again only when something advances, so that nothing runs beside
            what is measured.
        console: where to; stderr by default.
        clock: seconds.
    """

    def __init__(
        self,
        *,
        quiet: bool = False,
        still: bool = False,
        console: Console | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._still = still
        self._clock = clock
        self._bars: _Bars | None = None

    def log(self, message: str) -> None:
        """Print a line, above any bar."""
        if self._bars is not None:
            self._bars.refresh()  # the line pushes them down as they were drawn last
        if not self._quiet:
            self._console.print(visible(message), markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def bytes(self, text: str, total: int | None) -> Iterator[Piece]:
        """Show work counted in bytes, with speed and time left."""
        with self._piece(text, total, "bytes") as piece:
            yield piece

    @contextmanager
    def steps(self, text: str, total: int | None, unit: str = "steps") -> Iterator[Piece]:
        """Show work counted in steps of some kind, with the time left."""
        with self._piece(text, total, unit) as piece:
            yield piece

    @contextmanager
    def work(self, text: str) -> Iterator[Piece]:
        """Show work that doesn't say how far it is, with the time it has taken."""
        with self._piece(text, None, "") as piece:
            yield piece

    @contextmanager
    def phases(self, text: str) -> Iterator[Callable[[str, int, int], None]]:
        """Show work whose phases lie in one another, a bar for each that is under way.

        What it yields is called with a phase's name, its steps done, and how many it has.
        """
        with self.work(text), ExitStack() as all_of_them:
            under_way: dict[str, tuple[ExitStack, Piece]] = {}

            def show(name: str, done: int, steps: int) -> None:
                if name not in under_way:
                    stack = all_of_them.enter_context(ExitStack())
                    piece = stack.enter_context(self.steps(name, steps))
                    under_way[name] = stack, piece
                stack, piece = under_way[name]
                piece.advance(done - piece.done)
                if done >= steps:
                    del under_way[name]
                    stack.close()

            yield show

    @contextmanager
    def _piece(self, text: str, total: int | None, unit: str) -> Iterator[Piece]:
        start = self._clock()
        with self._display() as bars:
            piece = Piece(bars, text, total, unit)
            try:
                yield piece
            finally:
                piece.close()
        seconds = self._clock() - start
        if seconds >= LONG_S:
            done = show_bytes(piece.done) if unit == "bytes" else f"{piece.done} {unit}"
            self.log(f"{text}: {f'{done} in ' if unit else ''}{seconds:.1f} s")

    @contextmanager
    def _display(self) -> Iterator[Progress]:
        """Yield the bars; the outermost piece starts and stops them."""
        if self._bars is not None:
            yield self._bars
            return
        bars = self._bars = _Bars(self._console, still=self._still, clock=self._clock)
        try:
            if self._console.is_interactive and not self._quiet:
                bars.start()
            yield bars
        finally:
            self._bars = None
            bars.stop()


class _Bars(Progress):
    """Bars of the pieces that have been under way for a while, so that short ones don't flash."""

    def __init__(self, console: Console, *, still: bool, clock: Callable[[], float]) -> None:
        self._hidden_s = 0.0 if still else LONG_S
        super().__init__(
            SpinnerColumn("line"),
            _Description(console),
            BarColumn(BAR_WIDTH),
            _Figures(table_column=Column(no_wrap=True)),
            console=console,
            auto_refresh=not still,
            speed_estimate_period=WINDOW_S,
            transient=True,
            # rich would send stdout's text the way of the bars: to stderr
            redirect_stdout=sys.stdout.isatty(),
            get_time=clock,
        )

    def get_renderables(self) -> Iterator[RenderableType]:
        """Yield the table of bars, if there is any to see."""
        shown = [task for task in self.tasks if (task.elapsed or 0.0) >= self._hidden_s]
        if shown:
            yield self.make_tasks_table(shown)

    def stop(self) -> None:
        """Stop the display; what was never started stays silent."""
        if self.live.is_started:
            super().stop()


class _Description(ProgressColumn):
    """What is done; the middle of a long engine name gives way to the figures."""

    def __init__(self, console: Console) -> None:
        super().__init__(Column(no_wrap=True))
        self._screen = console

    def render(self, task: Task) -> Text:
        room = self._screen.width - BAR_WIDTH - FIGURES_WIDTH
        return Text(shorten(task.description, max(room, BAR_WIDTH)))


class _Figures(ProgressColumn):
    """How much is done of how much, how fast, and the time left; or else the time it has taken."""

    def render(self, task: Task) -> Text:
        unit, left = task.fields["unit"], task.time_remaining
        told = []
        if unit == "bytes":
            told.append(_part(int(task.completed), task.total))
            told += [f"{show_bytes(int(task.speed))}/s"] if task.speed else []
        elif unit:
            of = f"/{task.total:.0f}" if task.total else ""
            told.append(f"{task.completed:.0f}{of} {unit}")
        told.append(_time(task.elapsed or 0.0) if left is None else f"{_time(left)} left")
        return Text("  ".join(told))


def _part(done: int, total: float | None) -> str:
    if not total:
        return show_bytes(done)
    size, name = pick(BYTES, total)
    return f"{done / size:.1f}/{total / size:.1f} {name}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=int(seconds)))
