"""What split engines take once per prompt, as a table: seconds and bytes that no forward takes."""

from __future__ import annotations

from collections.abc import Iterable

from wanrt.report.videos import LABEL, number_cells
from wanrt.results.result import CandidateResult, GroupResult
from wanrt.terminal.text import columns
from wanrt.terminal.units import BYTES, SECONDS, shorten

__all__ = ["context_lines", "context_table"]


def context_table(group: GroupResult, rows: Iterable[CandidateResult]) -> list[tuple[str, ...]]:
    """Return a header and a line per row that has a context; nothing if none has.

    Args:
        group: whose rows they are.
        rows: those to show.
    """
    split = [row for row in rows if row.probe.context_s is not None]
    if not split:
        return []
    table = [
        ("once per prompt", *(shorten(group.row_name(row), LABEL) for row in split)),
        ("context", *number_cells([row.probe.context_s for row in split], SECONDS)),
        ("moved", *number_cells([row.probe.context_bytes for row in split], BYTES)),
    ]
    return list(zip(*table, strict=True))


def context_lines(group: GroupResult, rows: Iterable[CandidateResult]) -> list[str]:
    """Return the table's lines for a terminal, flush."""
    table = context_table(group, rows)
    return columns(table) if table else []
