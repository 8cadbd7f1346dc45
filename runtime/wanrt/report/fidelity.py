"""What engines keep of the effect of their full fine-tune, as a table."""

from __future__ import annotations

from collections.abc import Iterable

from wanrt.report.videos import LABEL
from wanrt.results.result import CandidateResult, GroupResult
from wanrt.terminal.text import columns
from wanrt.terminal.units import shorten, show_share

__all__ = ["fidelity_lines", "fidelity_table"]


def fidelity_table(group: GroupResult, rows: Iterable[CandidateResult]) -> list[tuple[str, ...]]:
    """Return a header and a line per row that was measured; nothing if none was.

    Args:
        group: whose rows they are.
        rows: those to show.
    """
    known = [(row, row.keeps) for row in rows if row.keeps is not None]
    if not known:
        return []
    return [
        ("of the fine-tune's effect", "keeps"),
        *((shorten(group.row_name(row), LABEL), show_share(kept)) for row, kept in known),
    ]


def fidelity_lines(group: GroupResult, rows: Iterable[CandidateResult]) -> list[str]:
    """Return the table's lines for a terminal, flush."""
    table = fidelity_table(group, rows)
    return columns(table) if table else []
