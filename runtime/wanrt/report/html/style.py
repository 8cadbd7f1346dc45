"""How plots look, and their way out: a matplotlib figure as SVG, as PNG, as a part of a page.

One unit is one pixel of the page (72 to the inch). Colours are drawn as the light scheme's; in a
page each becomes the CSS variable of its name, so that one drawing serves both schemes.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from wanrt.results.result import CandidateResult

if TYPE_CHECKING:
    from matplotlib.typing import RcKeyType

__all__ = [
    "COLORS", "DARK", "NARROW", "WIDE", "bare", "color_of", "new_figure", "styled", "to_files",
    "to_page",
]  # fmt: skip

WIDE, NARROW = 920, 340
"""Widths in pixels: what a desktop and what a phone shows."""

UNIT = 72
COLORS = {
    "ink": "#1c2024", "muted": "#5c656e", "grid": "#dfe3e7", "paper": "#ffffff",
    "full": "#586069", "merged": "#0063a0", "separate": "#b84a00", "swappable": "#00795a",
    "rival": "#8f4079", "band": "#c9d1d9",
}  # fmt: skip
"""From Okabe and Ito's palette, which colour-blind readers can tell apart, darkened for text."""

DARK = {
    "ink": "#e7eaee", "muted": "#a3acb6", "grid": "#31373f", "paper": "#14171b",
    "full": "#b4bcc5", "merged": "#5bb5f0", "separate": "#ff9a57", "swappable": "#3ccfa4",
    "rival": "#e79ac8", "band": "#3d4650",
}  # fmt: skip

STYLE: dict[RcKeyType, Any] = {
    "axes.edgecolor": COLORS["muted"], "axes.facecolor": "none", "axes.grid": True,
    "axes.axisbelow": True, "axes.labelcolor": COLORS["muted"], "axes.labelsize": 12,
    "axes.linewidth": 0.8, "axes.titlesize": 12, "axes.titlecolor": COLORS["ink"],
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False,
    "figure.facecolor": "none", "font.size": 12, "grid.color": COLORS["grid"],
    "grid.linewidth": 0.8, "svg.fonttype": "none",
    "text.parse_math": False, "text.color": COLORS["ink"],
    "xtick.color": COLORS["muted"], "ytick.color": COLORS["muted"],
}  # fmt: skip


@contextmanager
def styled(name: str) -> Iterator[None]:
    """Draw in this project's style; equal data gives equal bytes, names keep ids apart."""
    with rc_context({**STYLE, "svg.hashsalt": name}), warnings.catch_warnings():
        # a label in a script that matplotlib's own font lacks: readers of the SVG have another
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        yield


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of that many pixels."""
    return Figure(figsize=(width / UNIT, height / UNIT), layout="constrained")


def bare(axes: Axes) -> None:
    """Leave an axes of bars only what says something: the grid along its values."""
    for spine in axes.spines.values():
        spine.set_visible(False)
    axes.grid(visible=False, axis="y")
    axes.tick_params(length=0)


def color_of(row: CandidateResult) -> str:
    """Return the colour of a row's mode."""
    return COLORS["rival" if row.rival else row.mode]


def to_files(figure: Figure) -> dict[str, bytes]:
    """Return a figure as SVG and as PNG at twice its size, by the files' suffixes."""
    found = {}
    for kind, metadata in (("svg", {"Date": None}), ("png", None)):
        data = io.BytesIO()
        paper = COLORS["paper"]
        figure.savefig(data, format=kind, dpi=2 * UNIT, facecolor=paper, metadata=metadata)
        found[f".{kind}"] = data.getvalue()
    return found


def to_page(figure: Figure, css_class: str, description: str) -> str:
    """Return a figure as an SVG element that takes its colours from the page."""
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # the same in every figure, and never referred to
    for name, value in COLORS.items():
        svg = svg.replace(value, f"var(--{name})")
    attributes = f'class="plot {css_class}" role="img" aria-label="{escape(description)}"'
    view = re.search(r'viewBox="[^"]*"', svg)
    assert view is not None
    return f"<svg {attributes} {view.group()}{svg[svg.index('>') :]}".strip()
