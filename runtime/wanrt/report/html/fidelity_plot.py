"""What a study is for, as a plot: speed against what engines keep of the fine-tune's effect."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from wanrt.report.html.ratio_plot import MARKERS, draw_point
from wanrt.report.html.style import COLORS, NARROW, color_of, new_figure
from wanrt.results.result import CandidateResult, GroupResult

__all__ = ["draw_fidelity"]

HEIGHT = {True: 320, False: 380}
DODGE = 0.012
"""Of the axis: engines of one adapter keep the same, and stand beside each other."""


def draw_fidelity(_: GroupResult, rows: Sequence[CandidateResult], width: float) -> Figure:
    """Draw each candidate's ratio over its fidelity, adapters named, and the fine-tune's speed."""
    figure = new_figure(width, HEIGHT[width <= NARROW])
    axes = figure.subplots()
    axes.axhline(1.0, color=COLORS["full"], lw=1.2)
    modes = list(dict.fromkeys(row.mode for row in rows))
    kept = [row.keeps or 0.0 for row in rows]
    span = max(max(kept) - min(kept), 0.01)
    tops: dict[tuple[float, int | None], float] = {}
    for row, keeps in zip(rows, kept, strict=True):
        assert row.ratio is not None
        shift = DODGE * span * (modes.index(row.mode) - (len(modes) - 1) / 2)
        draw_point(axes, keeps + shift, row)
        adapter = (round(keeps, 3), row.rank)
        top = row.ratio.value if row.ratio.high is None else row.ratio.high
        tops[adapter] = max(top, tops.get(adapter, top))
    for (keeps, rank), top in tops.items():
        axes.annotate(
            f"r{rank}" if rank else "", (keeps, top), (0, 7), textcoords="offset points",
            ha="center", fontsize=11,
        )  # fmt: skip
    colors = {row.mode: color_of(row) for row in rows}
    handles = [
        Line2D([], [], ls="", marker=MARKERS[mode], color=colors[mode], label=mode)
        for mode in modes
    ]
    figure.legend(handles=handles, loc="outside upper left", ncols=len(modes), frameon=False)
    axes.margins(x=0.08, y=0.15)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * x:g}"))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=6, steps=[1, 2, 5, 10]))
    axes.set_xlabel("keeps, % of the full fine-tune's effect")
    axes.set_ylabel("tokens per second, x full fine-tune")
    return figure
