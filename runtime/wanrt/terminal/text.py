"""Lines for a terminal of 79 columns: wrapped text, columns, counted things, names cut short."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

__all__ = ["WIDTH", "columns", "counted", "first_and_more", "first_three", "group_digits", "wrap"]

WIDTH = 79


def wrap(text: str, later: str = "", *, first: str = "", whole_words: bool = False) -> list[str]:
    """Return text in lines of 79 columns; where a hyphen is, a line never ends.

    Args:
        text: words, of which those joined by a no-break space stay together.
        later: what every line but the first starts with.
        first: what the first line starts with.
        whole_words: leave a word whole that is longer than a line: a path to be copied.
    """
    lines = textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=later,
        break_long_words=not whole_words,
        break_on_hyphens=False,
    )
    return [line.replace("\N{NO-BREAK SPACE}", " ") for line in lines or [""]]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a line per row, indented by two; all columns but the first are flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for label, *cells in rows:
        padded = [cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True)]
        lines.append(("  " + "  ".join([label.ljust(widths[0]), *padded])).rstrip())
    return lines


def counted(number: int, noun: str) -> str:
    """Return `1 file` or `1,024 files`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def group_digits(number: int) -> str:
    """Return a number with its digits in threes: 32 760."""
    return f"{number:,}".replace(",", " ")


def first_three(names: Sequence[str]) -> str:
    """Return `a, b, c, ...`: three names, whose number is shown elsewhere."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def first_and_more(names: Sequence[str], most: int = 1) -> str:
    """Return `a and 4 more`: at most so many names, and the number of the others."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
