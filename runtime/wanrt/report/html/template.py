"""What pages are made with: templates, one style sheet, and plots in both widths."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from wanrt.report.html.plots import Plot
from wanrt.report.html.style import NARROW, WIDE, styled, to_page
from wanrt.terminal.screen import visible

__all__ = ["Drawing", "draw_plot", "load_template", "page_css"]


@dataclass(frozen=True)
class Drawing:
    """A plot in both widths, and what is to be known for reading it."""

    title: str
    caption: str
    leads: bool
    wide: Markup
    narrow: Markup


def draw_plot(plot: Plot, number: str, caption: str, *, leads: bool = True) -> Drawing:
    """Draw a plot for a page; `number` tells it from others of its name there."""
    parts = []
    for width, css_class in ((WIDE, "wide"), (NARROW, "narrow")):
        with styled(f"{number}-{plot.name}-{css_class}"):
            parts.append(Markup(to_page(plot.draw(width), css_class, plot.description)))  # noqa: S704
    return Drawing(plot.title, caption, leads, *parts)


@cache
def load_template(name: str) -> Template:
    """Return a template of this folder; what a terminal would obey is written out in its values."""
    environment = Environment(
        autoescape=True,
        finalize=lambda value: visible(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    return environment.from_string(_read(name))


def page_css() -> Markup:
    """Return the style sheet of every page."""
    return Markup(_read("page.css"))  # noqa: S704 (our own file)


def _read(name: str) -> str:
    return resources.files("wanrt.report.html").joinpath(name).read_text(encoding="utf-8")
