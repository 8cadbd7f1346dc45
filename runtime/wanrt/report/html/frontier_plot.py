"""The plot of a study: speed over rank, or over what is kept, and the frontier."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wanrt.report.html.ratio_plot import MARKERS
from wanrt.report.html.style import COLORS, NARROW, new_figure
from wanrt.report.study import CardFindings, Point

__all__ = ["draw_frontier"]

HEIGHT = {True: 330, False: 420}
WAYS = {True: ("exchanged in place", "-"), False: ("another engine", (0, (4, 3)))}


def draw_frontier(found: CardFindings, width: float) -> Figure:
    """Draw each point's speed; filled where nothing beats it, a line per way of exchange."""
    points = [p for p in found.points if p.cell.mode != "full" and p.speed is not None]
    kept = all(p.keeps is not None for p in points)
    figure = new_figure(width, HEIGHT[width <= NARROW])
    axes = figure.subplots()
    frontier = found.frontier
    axes.axhline(1.0, color=COLORS["full"], lw=1.2)
    for in_place, (name, dashes) in WAYS.items():
        members = [p for p in points if p.in_place is in_place]
        _stair(axes, members, kept, f"best: {name}", dashes)
    labels = set()
    for point in points:
        color, label = COLORS[point.cell.mode], _label(point)
        axes.plot(
            _place(point, kept), point.speed or 0.0, linestyle="", color=color,
            marker=MARKERS[point.cell.mode], ms=7 if point.cell.targets != "all" else 9,
            mfc=color if point in frontier else "none",
            label=None if label in labels else label,
        )  # fmt: skip
        labels.add(label)
    _axis(axes, points, kept)
    axes.set_ylabel("tokens per second, x full fine-tune")
    axes.legend(fontsize=10, frameon=False, ncols=1 if width <= NARROW else 2)
    return figure


def _stair(axes: Axes, points: Sequence[Point], kept: bool, name: str, dashes: object) -> None:
    """Draw the highest speed at each rank or more, or of what keeps as much or more."""
    places = sorted({_place(point, kept) for point in points})
    best = [max(p.speed or 0.0 for p in points if _place(p, kept) >= place) for place in places]
    if len(places) > 1:
        axes.step(places, best, where="pre", lw=1.2, color=COLORS["muted"], ls=dashes, label=name)


def _place(point: Point, kept: bool) -> float:
    return 100 * (point.keeps or 0.0) if kept else math.log2(point.cell.rank or 1)


def _label(point: Point) -> str:
    usual = point.cell.targets in (None, "cross-attention")
    return point.cell.mode if usual else f"{point.cell.mode} {point.cell.targets}"


def _axis(axes: Axes, points: Sequence[Point], kept: bool) -> None:
    if kept:
        axes.set_xlabel("keeps of the full fine-tune's effect, %")
        return
    ranks = sorted({point.cell.rank or 1 for point in points})
    axes.set_xticks([math.log2(rank) for rank in ranks], [f"{rank}" for rank in ranks])
    axes.set_xlabel("LoRA rank; merged: any")
