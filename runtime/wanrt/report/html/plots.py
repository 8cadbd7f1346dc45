"""The plots of a bench: one function per question, each from a group to a figure.

Figures are drawn for every width: what is readable on a desk isn't on a phone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from wanrt.report.html.bytes_plot import draw_bytes
from wanrt.report.html.fidelity_plot import draw_fidelity
from wanrt.report.html.ratio_plot import draw_ratios
from wanrt.report.html.rounds_plot import draw_traces
from wanrt.report.html.style import COLORS, NARROW, bare, color_of, new_figure
from wanrt.results.result import CandidateResult, GroupResult
from wanrt.terminal.units import BYTES, RATES, SECONDS, Unit, pick, shorten, show, show_bytes

__all__ = ["PLOTS", "Plot", "plots_of"]

BAR = 26
MARGIN = 52
CHARACTER = 6.5
PALE = 0.35
WITH_CONTROLS = ("rounds",)
"""In the others the controls are what bounds a claim, not candidates."""


@dataclass(frozen=True)
class Plot:
    """A plot that a group has data for: its file's name, its title, what it shows, and how.

    `draw` takes a width in pixels and must be called within `style.styled`.
    """

    name: str
    title: str
    description: str
    draw: Callable[[float], Figure]


def plots_of(group: GroupResult) -> list[Plot]:
    """Return the plots that a group has data for."""
    found = []
    for name, title, needs, draw in PLOTS:
        told = [row for row in group.candidates if name in WITH_CONTROLS or not row.control]
        rows = [row for row in told if needs(row)]
        if rows:
            names = ", ".join(group.row_name(row) for row in rows)
            found.append(Plot(name, title, f"{title}: {names}", partial(draw, group, rows)))
    return found


def draw_rates(group: GroupResult, rows: Sequence[CandidateResult], width: float) -> Figure:
    """Draw tokens per second as bars from zero."""
    rates = [row.tokens_per_s or 0.0 for row in rows]
    unit = pick(RATES, min(rates))
    figure = new_figure(width, MARGIN + BAR * len(rows))
    axes = figure.subplots()
    _bars(axes, group, rows, rates, _longest(width))
    _end_labels(axes, rates, [show(rate, unit) for rate in rates], width)
    full = [row for row in rows if row.ratio and row.ratio.verdict == "baseline"]
    dashed = "; dashed: full fine-tune" if len(full) == 1 else ""
    if dashed:
        axes.axvline(full[0].tokens_per_s or 0.0, color=COLORS["full"], lw=0.8, ls=(0, (4, 3)))
    _scale(axes, unit, f"tokens per second{dashed}")
    return figure


def draw_memory(group: GroupResult, rows: Sequence[CandidateResult], width: float) -> Figure:
    """Draw peak memory, device memory and bytes on disk, side by side where there is room."""
    panels: list[tuple[str, list[int | None], list[int | None]]] = []
    none: list[int | None] = [None] * len(rows)
    for title, values, part in (
        ("peak memory, file pages apart", [r.probe.memory_bytes for r in rows], none),
        ("device memory", [r.probe.device_bytes for r in rows], none),
        (
            "on disk; pale: shared with full",
            [r.probe.disk_bytes for r in rows],
            [r.probe.shared_bytes for r in rows],
        ),
    ):
        if any(value is not None for value in values):
            panels.append((title, values, part))
    stacked = width <= NARROW
    each = MARGIN + 20 + BAR * len(rows)
    figure = new_figure(width, each * len(panels) if stacked else each)
    shape = (len(panels), 1) if stacked else (1, len(panels))
    grid = figure.subplots(*shape, squeeze=False, sharey=not stacked).flat
    for axes, (title, values, part) in zip(grid, panels, strict=True):
        sizes = [float(value or 0) for value in values]
        unit = pick(BYTES, max(sizes))
        _bars(axes, group, rows, sizes, _longest(width), pale=True)
        own = [size - (shared or 0) for size, shared in zip(sizes, part, strict=True)]
        axes.barh(range(len(rows)), own, height=0.62, color=[color_of(row) for row in rows])
        totals = [show_bytes(value, unit) for value in values]
        news = [show_bytes(int(part), unit).split()[0] for part in own]
        texts = [f"{n} of {t}" if s else t for n, t, s in zip(news, totals, part, strict=True)]
        _end_labels(axes, sizes, texts, width if stacked else width / len(panels))
        _scale(axes, unit, "")
        axes.set_title(title)
    return figure


def draw_prediction(group: GroupResult, rows: Sequence[CandidateResult], width: float) -> Figure:
    """Draw a forward as measured, and within it the part that the roofline predicts at best."""
    seconds = [row.seconds or 0.0 for row in rows]
    best = [row.predicted_s or 0.0 for row in rows]
    unit = pick(SECONDS, max(seconds))
    figure = new_figure(width, MARGIN + BAR * len(rows))
    axes = figure.subplots()
    _bars(axes, group, rows, seconds, _longest(width), pale=True)
    axes.barh(range(len(rows)), best, height=0.3, color=[color_of(row) for row in rows])
    reached = [f"{100 * p / s:.0f} %" for p, s in zip(best, seconds, strict=True)]
    long = width > NARROW
    texts = [
        f"{show(s, unit)}, at best {show(p, unit)}: {part}" if long else part
        for s, p, part in zip(seconds, best, reached, strict=True)
    ]
    _end_labels(axes, [max(pair) for pair in zip(seconds, best, strict=True)], texts, width)
    _scale(axes, unit, "per forward; dark: predicted at best")
    return figure


def _bars(
    axes: Axes,
    group: GroupResult,
    rows: Sequence[CandidateResult],
    values: Sequence[float],
    longest: int,
    *,
    pale: bool = False,
) -> None:
    """Draw a bar per row, first row on top, and name it on the left."""
    bare(axes)
    colors = [color_of(row) for row in rows]
    axes.barh(range(len(rows)), values, height=0.62, color=colors, alpha=PALE if pale else None)
    names = [shorten(group.row_name(row), longest) for row in rows]
    axes.set_yticks(range(len(rows)), names, color=COLORS["ink"])
    axes.set_ylim(len(rows) - 0.5, -0.5)


def _longest(width: float) -> int:
    """Return how many characters of a name a figure has room for."""
    return 16 if width <= NARROW else 28


def _end_labels(axes: Axes, values: Sequence[float], texts: Sequence[str], width: float) -> None:
    """Write a text at the end of every bar, and leave room for it."""
    for place, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.annotate(
            text, (value, place), (5, 0), textcoords="offset points", va="center", fontsize=11,
            bbox={"facecolor": COLORS["paper"], "linewidth": 0, "pad": 1},
        )  # fmt: skip
    largest = max(values) or 1.0
    axes.set_xlim(0, largest * (1 + CHARACTER * max(map(len, texts)) / width))


def _scale(axes: Axes, unit: Unit, label: str) -> None:
    """Count the axis of values in a unit, at round numbers of it."""
    size, name = unit
    locator = MaxNLocator(nbins=4, steps=[1, 2, 5, 10])
    ticks = locator.tick_values(0, axes.get_xlim()[1] / size)[:-1]
    axes.set_xticks([tick * size for tick in ticks])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / size:g}"))
    axes.set_xlabel(f"{name} {label}".strip())


def _measured(row: CandidateResult) -> bool:
    return bool(row.forwards)


def _compared(row: CandidateResult) -> bool:
    return row.ratio is not None and row.ratio.verdict != "baseline"


def _kept(row: CandidateResult) -> bool:
    return row.keeps is not None and _compared(row)


def _probed(row: CandidateResult) -> bool:
    sizes = (row.probe.memory_bytes, row.probe.device_bytes, row.probe.disk_bytes)
    return any(size is not None for size in sizes)


def _readable(row: CandidateResult) -> bool:
    return bool(row.moved)


def _predicted(row: CandidateResult) -> bool:
    return row.predicted_s is not None and bool(row.forwards)


Draw = Callable[[GroupResult, Sequence[CandidateResult], float], Figure]
PLOTS: tuple[tuple[str, str, Callable[[CandidateResult], bool], Draw], ...] = (
    ("ratio", "Speed against the full fine-tune, by rank", _compared, draw_ratios),
    ("fidelity", "Speed against fidelity", _kept, draw_fidelity),
    ("rate", "Tokens per second", _measured, draw_rates),
    ("rounds", "Every round", _measured, draw_traces),
    ("memory", "Memory and disk", _probed, draw_memory),
    ("prediction", "Predicted and measured", _predicted, draw_prediction),
    ("bytes", "Bytes moved, read from the plans", _readable, draw_bytes),
)
