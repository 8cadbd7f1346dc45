"""The plot that answers the question: speed against the full fine-tune over rank, by mode."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from wanrt.report.headline import show_interval
from wanrt.report.html.style import COLORS, NARROW, color_of, new_figure
from wanrt.results.result import CandidateResult, GroupResult
from wanrt.terminal.units import shorten

__all__ = ["draw_point", "draw_ratios"]

HEIGHT = {True: 330, False: 400}
MARKERS = {"full": "h", "merged": "s", "separate": "o", "swappable": "^", "rival": "D"}
SLOT = 0.16
"""What a candidate without a rank takes of the ranks' width, left of them."""

DODGE = 0.022
TWIN = 0.008
LEAST_SPAN = 0.01
"""An axis that zooms closer would make a drama of nothing."""

LEAST_TICKS_APART = 0.05


def draw_ratios(group: GroupResult, rows: Sequence[CandidateResult], width: float) -> Figure:
    """Draw each candidate's ratio with its interval, the controls' band and the line at 1."""
    figure = new_figure(width, HEIGHT[width <= NARROW])
    axes = figure.subplots()
    ranked = [row for row in rows if row.rank is not None and row.rival is None]
    unranked = [row for row in rows if row not in ranked]
    low, high = _limits(ranked or unranked, group.band)
    inside = [row for row in unranked if row.ratio and low < row.ratio.value < high]
    outside = [row for row in unranked if row not in inside]
    axes.set_ylim(low, high)
    _baseline(axes, group.band)
    ends = _series(axes, group, ranked)
    _ranks(axes, [row.rank or 1 for row in ranked], _others(axes, inside))
    labels = ["LoRA rank" if ranked else "", _far_off(outside, low, width)]
    axes.set_xlabel("\n".join(filter(None, labels)))
    _name_series(axes, [*ends, ("full", COLORS["full"], 1.0)])
    axes.yaxis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axes.set_ylabel("tokens per second, x full fine-tune")
    return figure


def _limits(
    rows: Iterable[CandidateResult], band: tuple[float, float] | None
) -> tuple[float, float]:
    values = [1.0, *(band or ())]
    for row in rows:
        if row.ratio is not None:
            ratio = row.ratio
            values += [v for v in (ratio.value, ratio.low, ratio.high) if v is not None]
    low, high = min(values), max(values)
    pad = max(0.08 * (high - low), (LEAST_SPAN - (high - low)) / 2)
    return low - pad, high + pad


def _baseline(axes: Axes, band: tuple[float, float] | None) -> None:
    axes.axhline(1.0, color=COLORS["full"], lw=1.2)
    if band is not None:
        axes.axhspan(*band, color=COLORS["band"], alpha=0.45, lw=0)
        text = f"shaded: controls (A/A, merged), {band[0]:.3f} to {band[1]:.3f}"
        axes.set_title(text, fontsize=11, color=COLORS["muted"])


def _series(
    axes: Axes, group: GroupResult, rows: Sequence[CandidateResult]
) -> list[tuple[str, str, float]]:
    """Draw the candidates that have a rank; return each series' name, colour and last ratio."""
    keys = list(dict.fromkeys((row.mode, row.dtype) for row in rows))
    several = len({row.dtype for row in group.candidates}) > 1
    ends = []
    for number, (mode, dtype) in enumerate(keys):
        members = [row for row in rows if (row.mode, row.dtype) == (mode, dtype)]
        members.sort(key=lambda row: row.rank or 1)
        shift = DODGE * (number - (len(keys) - 1) / 2)
        places = _positions([row.rank or 1 for row in members], [r.rank or 1 for r in rows])
        seen: dict[float, int] = {}
        x = []
        for place in places:
            seen[place] = seen.get(place, -1) + 1
            x.append(place + shift + TWIN * seen[place])
        y = [row.ratio.value for row in members if row.ratio]
        if len(set(places)) == len(places):
            axes.plot(x, y, color=COLORS[mode], lw=1.0, alpha=0.55)
        for place, row in zip(x, members, strict=True):
            draw_point(axes, place, row)
        ends.append((f"{mode} {dtype}" if several else mode, COLORS[mode], y[-1]))
    return ends


def draw_point(axes: Axes, x: float, row: CandidateResult) -> None:
    """Draw one ratio; hollow if there is no interval to it."""
    ratio = row.ratio
    assert ratio is not None
    error = None
    if ratio.low is not None and ratio.high is not None:
        lengths = [[ratio.value - ratio.low], [ratio.high - ratio.value]]
        error = np.maximum(lengths, 0.0)
    color = color_of(row)
    axes.errorbar(
        x, ratio.value, error, color=color, marker=MARKERS["rival" if row.rival else row.mode],
        ms=6.5, mfc=color if error is not None else "none", capsize=4, elinewidth=1.6,
    )  # fmt: skip


def _others(axes: Axes, rows: Sequence[CandidateResult]) -> list[tuple[float, str]]:
    """Draw what has no rank, left of the ranks; return where, and its name."""
    places = []
    for number, row in enumerate(rows):
        x = -SLOT * (len(rows) - number)
        draw_point(axes, x, row)
        places.append((x, "\n".join(shorten(row.label, 24).replace("-", "- ").split())))
    return places


def _far_off(rows: Sequence[CandidateResult], low: float, width: float) -> str:
    """Name the candidates that a scale wide enough for them would flatten the others for."""
    if not rows:
        return ""
    told = [f"{row.label} {show_interval(row.ratio)[0]}" for row in rows if row.ratio]
    where = [row.ratio.value < low for row in rows if row.ratio]
    side = "below" if all(where) else "outside"
    text = f"{side} this scale: {', '.join(told)}"
    return textwrap.fill(text, int(width / 7.5), break_on_hyphens=False)


def _positions(ranks: Sequence[int], among: Sequence[int]) -> list[float]:
    """Return where ranks lie between 0 and 1, by their logarithm."""
    if not among:
        return []
    first, last = math.log2(min(among)), math.log2(max(among))
    if first == last:
        return [0.5] * len(ranks)
    return [(math.log2(rank) - first) / (last - first) for rank in ranks]


def _ranks(axes: Axes, ranks: Sequence[int], others: Sequence[tuple[float, str]]) -> None:
    """Mark the ranks on the axis, where two would touch the smaller, and what has none."""
    ticks: list[tuple[float, str]] = []
    unique = sorted(set(ranks))
    for place, rank in zip(_positions(unique, unique), unique, strict=True):
        if not ticks or place - ticks[-1][0] >= LEAST_TICKS_APART:
            ticks.append((place, f"{rank}"))
    marked = [*others, *ticks]
    axes.set_xticks([place for place, _ in marked], [name for _, name in marked])
    left = others[0][0] - SLOT / 2 if others else -0.08
    axes.set_xlim(left, 1.08 if ranks else -SLOT / 2)
    axes.grid(visible=False, axis="x")
    if others and ranks:
        axes.axvline(-SLOT / 2, color=COLORS["grid"], lw=1.0)


def _name_series(axes: Axes, ends: Sequence[tuple[str, str, float]]) -> None:
    """Name the series right of their last points, none over another."""
    low, high = axes.get_ylim()
    least = 0.055 * (high - low)
    taken: list[float] = []
    for name, color, y in sorted(ends, key=lambda end: end[2]):
        place = max([y, *(other + least for other in taken[-1:])])
        taken.append(place)
        axes.annotate(
            name, (1.01, place), xycoords=("axes fraction", "data"), va="center", fontsize=12,
            color=color, annotation_clip=False,
        )  # fmt: skip
