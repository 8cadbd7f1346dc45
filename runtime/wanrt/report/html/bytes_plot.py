"""The plot of what the kernels of compiled plans move, beside the least that a forward must."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from wanrt.report.html.style import COLORS, NARROW, bare, new_figure
from wanrt.results.result import CandidateResult, GroupResult
from wanrt.terminal.units import shorten

__all__ = ["draw_bytes"]

KINDS: dict[str, tuple[str, tuple[str, ...]]] = {
    "linear layers": (
        "full",
        ("self_attention_linear", "cross_attention_linear", "ffn", "embedding", "head"),
    ),
    "attention": ("merged", ("self_attention", "cross_attention")),
    "norms, modulation, rotary": ("band", ("elementwise",)),
    "LoRA alone": ("separate", ("lora",)),
}
"""What stands for parts of a forward -> its colour, and which."""
GB = 1e9  # as in datasheets
BAR, MARGIN = 26, 92


def draw_bytes(group: GroupResult, rows: Sequence[CandidateResult], width: float) -> Figure:
    """Draw a bar per engine, from zero, in pieces by part; the least of the first one below."""
    longest = 16 if width <= NARROW else 28
    bars = {shorten(group.row_name(row), longest): row.moved or {} for row in rows}
    bars["the least (formula)"] = rows[0].least_moved or {}
    figure = new_figure(width, MARGIN + BAR * len(bars))
    axes = figure.subplots()
    bare(axes)
    left = [0.0] * len(bars)
    for name, (color, parts) in KINDS.items():
        sizes = [_sum(moved, parts) for moved in bars.values()]
        if any(sizes):
            axes.barh(
                range(len(bars)), sizes, left=left, height=0.62, color=COLORS[color], label=name
            )
        left = [start + size for start, size in zip(left, sizes, strict=True)]
    for place, total in enumerate(left):
        axes.annotate(
            f"{total:.4g} GB", (total, place), (5, 0), textcoords="offset points", va="center",
            fontsize=11,
        )  # fmt: skip
    axes.set_xlim(0, max(left) * (1.25 if width <= NARROW else 1.12))
    axes.set_yticks(range(len(bars)), list(bars), color=COLORS["ink"])
    axes.set_ylim(len(bars) - 0.5, -0.5)
    axes.set_xlabel("GB that the plan's kernels move in a forward")
    columns = 1 if width <= NARROW else len(KINDS)
    figure.legend(loc="outside lower center", ncols=columns, frameon=False, fontsize=11)
    return figure


def _sum(moved: Mapping[str, int], parts: Sequence[str]) -> float:
    return sum(moved.get(part, 0) for part in parts) / GB
