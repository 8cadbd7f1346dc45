"""Every round of every candidate: small panels of the same scales, drawn against its own median."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from wanrt.report.html.style import COLORS, NARROW, color_of, new_figure
from wanrt.results.result import CandidateResult, GroupResult
from wanrt.results.values import TICK_S
from wanrt.terminal.units import SECONDS, pick, shorten, show

__all__ = ["draw_traces"]

PANEL = 92
LEFT, RIGHT, TOP, BOTTOM = 66, 6, 22, 44
COLUMNS = {True: 2, False: 4}
WILD_FACTOR = 4
"""Beyond this many times the typical candidate's reach a round is drawn at the panel's edge."""

Place = tuple[int, int]
"""A load and a round of it."""


def draw_traces(group: GroupResult, rows: Sequence[CandidateResult], width: float) -> Figure:
    """Draw every round's forward, in per cent of the candidate's median round."""
    traces = [_deviations(row) for row in rows]
    places = sorted({place for trace in traces for place in trace})
    limit = _limit(traces)
    narrow = width <= NARROW
    columns = min(len(rows), COLUMNS[narrow])
    lines = math.ceil(len(rows) / columns)
    height = TOP + PANEL * lines + BOTTOM
    figure = new_figure(width, height)
    figure.set_layout_engine("none")  # panels are alike: solving for their places takes seconds
    margins = {
        "left": LEFT / width, "right": 1 - RIGHT / width, "wspace": 0.05, "hspace": 0.42,
        "bottom": BOTTOM / height, "top": 1 - TOP / height,
    }  # fmt: skip
    grid = figure.subplots(lines, columns, squeeze=False, gridspec_kw=margins)
    unit = pick(SECONDS, min(row.seconds or 1.0 for row in rows))
    for axes, row, trace in zip(grid.flat, rows, traces, strict=False):
        _scale(axes, len(places), limit)
        _panel(axes, places, trace, color_of(row), limit)
        name = shorten(group.row_name(row), 14 if narrow else 20)
        axes.set_title(
            f"{name}  {show(row.seconds or 0.0, unit)}", fontsize=10 if narrow else 11, pad=4
        )
    for axes in grid.flat[len(rows) :]:
        axes.remove()
    label = {"fontsize": 12, "color": COLORS["muted"]}
    figure.supxlabel("rounds, shaded by load", y=6 / height, va="bottom", **label)
    figure.supylabel("off the median", x=4 / width, ha="left", **label)
    return figure


def _scale(axes: Axes, places: int, limit: float) -> None:
    """Set the scales, all panels' alike; axes that share them would be slow by their square."""
    axes.set_xlim(-0.5, places - 0.5)
    axes.set_ylim(-limit, limit)
    axes.tick_params(labelsize=10)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4, integer=True, min_n_ticks=1))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=3))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda part, _: f"{100 * part:.2g} %"))
    axes.label_outer(remove_inner_ticks=True)


def _deviations(row: CandidateResult) -> dict[Place, float]:
    """Return each round's geometric mean of its visits, as a part above the median round."""
    logs: dict[Place, list[float]] = {}
    for forward in row.forwards:
        logs.setdefault((forward.load, forward.round), []).append(
            math.log(max(forward.seconds, TICK_S))
        )
    means = {place: sum(values) / len(values) for place, values in logs.items()}
    middle = median(means.values())
    return {place: math.exp(value - middle) - 1 for place, value in means.items()}


def _limit(traces: Sequence[Mapping[Place, float]]) -> float:
    """Return how far the panels reach: all rounds, unless a few would flatten the others."""
    reaches = [max(map(abs, trace.values())) for trace in traces]
    typical = [float(np.quantile(np.abs(list(trace.values())), 0.9)) for trace in traces]
    return max(1e-4, min(max(reaches), WILD_FACTOR * median(typical)) * 1.15)


def _panel(
    axes: Axes, places: Sequence[Place], trace: Mapping[Place, float], color: str, limit: float
) -> None:
    loads: dict[int, list[int]] = {}
    for number, (load, _) in enumerate(places):
        loads.setdefault(load, []).append(number)
    few = len(places) <= 60
    for shade, (load, numbers) in enumerate(loads.items()):
        if shade % 2:
            edges = numbers[0] - 0.5, numbers[-1] + 0.5
            axes.axvspan(*edges, color=COLORS["band"], alpha=0.35, lw=0)
        there = [number for number in numbers if places[number] in trace]
        values = [trace[places[number]] for number in there]
        marker = "." if few or len(there) == 1 else None
        clipped = np.clip(values, -limit, limit)
        axes.plot(there, clipped, color=color, lw=1.2, marker=marker, ms=4, label=f"load {load}")
        for number, value in zip(there, values, strict=True):
            if abs(value) > limit:
                edge = math.copysign(limit * 0.97, value)
                axes.plot(number, edge, marker="^" if value > 0 else "v", color=color, ms=6)
    axes.axhline(0, color=COLORS["muted"], lw=0.8)
