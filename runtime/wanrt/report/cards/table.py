"""What several cards found, as text: a table over cards, and what each card found by itself."""

from __future__ import annotations

from collections.abc import Sequence

from wanrt.report.headline import sentences, show_interval
from wanrt.report.table import MARKS, signs, title
from wanrt.results.cards import LEAST_CARDS, Combined, CombinedGroup, CombinedRow
from wanrt.results.result import CandidateResult
from wanrt.terminal.text import columns, counted, wrap
from wanrt.terminal.units import shorten

__all__ = [
    "card_table", "facts", "group_lines", "notes_of", "over_table", "render_cards", "show_over",
]  # fmt: skip

LABEL = 19
ABREAST = 2
"""So many cards' ratios with their intervals stand side by side on a terminal."""

OVER = ("over cards", "to full (95 %)", "sd", "next card (95 %)")
FEW = f"no interval over fewer than {LEAST_CARDS} cards: what each card found stands by itself"


def render_cards(combined: Combined, verbose: bool = False) -> str:
    """Return the answer, the cards, and a table per model and workload."""
    several = len(combined.groups) > 1
    answers = [
        f"{group.model} {group.workload}: {line}" if several else line
        for group in combined.groups
        for line in group_lines(combined, group)[:1]
    ]
    blocks = [_wrapped(answers), _wrapped(facts(combined))]
    for group in combined.groups:
        blocks.append(_wrapped([title(group.group)]))
        if combined.pooled:
            blocks.append("\n".join(columns(over_table(group))))
        if verbose or not combined.pooled:
            blocks += ["\n".join(columns(table)) for table in _abreast(combined, group)]
        if notes := [*group_lines(combined, group)[1:], *notes_of(combined, group)]:
            blocks.append(_wrapped(notes))
    if combined.notes:
        blocks.append(_wrapped(combined.notes))
    return "\n\n".join(blocks) + "\n"


def group_lines(combined: Combined, group: CombinedGroup) -> list[str]:
    """Return a sentence per mode and rival, the answer first; or what keeps it from being given."""
    if combined.pooled:
        return sentences(group.group)
    return [FEW if len(combined.cards) < LEAST_CARDS else "no interval over cards"]


def facts(combined: Combined) -> list[str]:
    """Return what all cards share, and which they are."""
    machine = " · ".join(combined.first.machine.headline)
    known = [card for card in combined.cards if card.uuid is not None]
    return [
        f"{counted(len(combined.cards), 'card')}: {machine}",
        *([f"forward: {combined.first.timed}"] if combined.first.timed else []),
        *(f"{card.name}: {card.file}" for card in known),
    ]


def over_table(group: CombinedGroup) -> list[tuple[str, ...]]:
    """Return a header and a line per candidate: ratio, spread between cards, the next card."""
    return [OVER, *((_name(row, group), *_over(row)) for row in group.rows)]


def card_table(
    combined: Combined, group: CombinedGroup, chosen: Sequence[int]
) -> list[tuple[str, ...]]:
    """Return a header and a line per candidate: the ratios that some of the cards found."""
    header = ("by card", *(shorten(combined.cards[i].name, 26) for i in chosen))
    return [
        header,
        *((_name(row, group), *(_own(row.cards[i]) for i in chosen)) for row in group.rows),
    ]


def notes_of(combined: Combined, group: CombinedGroup) -> list[str]:
    """Return what a reader of a group's figures must know."""
    used = "".join(signs(row.row) for row in group.rows)
    found = [mark for mark in MARKS.split(" · ") if mark[0] in used]
    found += group.notes
    if group.band is not None:
        low, high = (f"{end:.3f}" for end in group.band)
        found.append(f"the cards' controls span {low} to {high}: nothing within that is claimed")
    if not combined.pooled:
        return found
    fewer = [
        f"{group.group.row_name(row.row)}: {counted(row.counted, 'card')} of {len(combined.cards)}"
        for row in group.rows
        if row.counted < len(combined.cards)
    ]
    return [*found, *fewer]


def show_over(row: CombinedRow) -> str:
    """Return a ratio over cards with its interval, or what is said in its place."""
    ratio = row.row.ratio
    if ratio is None:
        return "-"
    if ratio.verdict == "baseline":
        return "1"
    if ratio.verdict == "same":
        return "no measurable difference"
    if ratio.low is None:
        return f"{ratio.value:.3f} ({counted(row.counted, 'card')})"
    value, low, high = show_interval(ratio)
    return f"{value} ({low} to {high})"


def _over(row: CombinedRow) -> tuple[str, str, str]:
    if row.spread is None or row.ahead is None:
        return show_over(row), "", ""
    low, high = (f"{end:.3f}" for end in row.ahead)
    return show_over(row), f"{row.spread:.2%}", f"{low} to {high}"


def _own(row: CandidateResult) -> str:
    """Return what one card found; its own verdict over candidates says nothing over cards."""
    ratio = row.ratio
    if ratio is None:
        return "failed" if row.failed else "skipped" if row.skipped else "-"
    if ratio.verdict == "baseline":
        return "1"
    if ratio.low is None:
        return f"{ratio.value:.3f} (one load)"
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def _name(row: CombinedRow, group: CombinedGroup) -> str:
    return f"{shorten(group.group.row_name(row.row), LABEL)} {signs(row.row)}".rstrip()


def _abreast(combined: Combined, group: CombinedGroup) -> list[list[tuple[str, ...]]]:
    places = range(len(combined.cards))
    starts = range(0, len(places), ABREAST)
    return [card_table(combined, group, places[start : start + ABREAST]) for start in starts]


def _wrapped(texts: Sequence[str]) -> str:
    return "\n".join(line for text in texts for line in wrap(text, "    "))
