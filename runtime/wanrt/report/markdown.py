"""A bench's result as Markdown."""

from __future__ import annotations

import re

from wanrt.report.contexts import context_table
from wanrt.report.fidelity import fidelity_table
from wanrt.report.headline import sentences, summary_lines
from wanrt.report.table import COLUMNS, group_notes, shown_rows, table_rows, title
from wanrt.report.videos import unit_table, video_notes
from wanrt.results.result import BenchResult, CandidateResult
from wanrt.terminal.screen import visible

__all__ = ["plain", "table_lines", "to_markdown"]

MARKUP = re.compile(
    r"[\\`*<>|]|\](?=[(:\[])|(?<![^\W_])_|_(?![^\W_])"
)  # within a word, _ means itself


def to_markdown(result: BenchResult) -> str:
    """Return the terminal's tables in Markdown, with the answer and the machine above them."""
    lines = [line for text in summary_lines(result) for line in (plain(text), "")]
    lines += [plain(" · ".join(result.machine.headline)), ""]
    for group in result.groups:
        lines += [plain(title(group)), "", _markdown_line((*COLUMNS[:-1], "weights"))]
        lines.append("|---|---|--:|--:|---|--:|---|")
        for row, candidate in zip(table_rows(group), shown_rows(group), strict=True):
            cells = list(row.cells[:-1])
            if row.reason and not cells[2]:
                cells[4] = row.reason
            lines.append(_markdown_line((*cells, _weights(candidate))))
        for table in (fidelity_table, context_table, unit_table):
            lines += table_lines(table(group, shown_rows(group)))
        lines += [
            "",
            *(f"- {plain(line)}" for line in (*sentences(group)[1:], *group_notes(group))),
            "",
        ]
    lines += [f"- {plain(note)}" for note in video_notes(result.video)]
    lines += [f"- failed: {plain(reason)}" for reason in result.broken.values()]
    return "\n".join(lines).rstrip() + "\n"


def table_lines(table: list[tuple[str, ...]]) -> list[str]:
    """Return a table in Markdown after an empty line: its header first, then numbers."""
    if not table:
        return []
    header, *rows = map(_markdown_line, table)
    return ["", header, "|---" + "|--:" * (len(table[0]) - 1) + "|", *rows]


def _weights(row: CandidateResult) -> str:
    kind = "random weights" if row.random_weights else "real"
    return kind if row.verified else f"{kind}, unverified"


def _markdown_line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(map(plain, cells)) + " |"


def plain(text: str) -> str:
    """Return text that Markdown shows as it is, in one line: names come from files."""
    return MARKUP.sub(r"\\\g<0>", visible(" ".join(text.split())))
