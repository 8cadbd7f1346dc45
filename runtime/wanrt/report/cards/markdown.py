"""What several cards found, as Markdown."""

from __future__ import annotations

from wanrt.report.cards.table import card_table, facts, group_lines, notes_of, over_table
from wanrt.report.markdown import plain, table_lines
from wanrt.report.table import title
from wanrt.results.cards import Combined

__all__ = ["to_markdown"]


def to_markdown(combined: Combined) -> str:
    """Return all that the terminal shows with --verbose, in Markdown."""
    every = range(len(combined.cards))
    lines = [line for fact in facts(combined) for line in (plain(fact), "")]
    for group in combined.groups:
        answer, *others = group_lines(combined, group)
        lines += [plain(title(group.group)), "", plain(answer)]
        if combined.pooled:
            lines += table_lines(over_table(group))
        lines += table_lines(card_table(combined, group, every))
        notes = [*others, *notes_of(combined, group)]
        lines += ["", *(f"- {plain(note)}" for note in notes), ""]
    lines += [f"- {plain(note)}" for note in combined.notes]
    return "\n".join(lines).rstrip() + "\n"
