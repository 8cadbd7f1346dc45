"""What several cards found, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

from wanrt.report.csv import plain_cell
from wanrt.results.cards import Combined, CombinedGroup, CombinedRow
from wanrt.results.values import Ratio

__all__ = ["to_csv"]

FIELDS = (
    "card", "cards", "model", "workload", "candidate", "mode", "rank", "dtype", "target_set",
    "rival", "random_weights", "verified", "scheme", "baseline", "ratio", "ratio_low", "ratio_high",
    "p", "verdict", "spread", "next_low", "next_high", "tokens_per_s",
)  # fmt: skip


def to_csv(combined: Combined) -> str:
    """Return a line per candidate over cards, whose `card` is empty, then one per card."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    for group in combined.groups:
        for row in group.rows:
            for cells in _lines(combined, group, row):
                writer.writerow(map(plain_cell, cells))
    return text.getvalue()


def _lines(combined: Combined, group: CombinedGroup, row: CombinedRow) -> Iterator[list[object]]:
    what = row.row
    facts = [
        group.model, group.workload, what.label, what.mode, what.rank, what.dtype, what.target_set,
        what.rival, what.random_weights, what.verified, what.scheme, what.baseline,
    ]  # fmt: skip
    ahead = row.ahead or (None, None)
    yield ["", row.counted, *facts, *_ratio(what.ratio), row.spread, *ahead, None]
    for card, own in zip(combined.cards, row.cards, strict=True):
        rate = own.tokens_per_s
        yield [card.uuid or card.name, None, *facts, *_ratio(own.ratio), None, None, None, rate]


def _ratio(ratio: Ratio | None) -> list[object]:
    if ratio is None:
        return [None] * 5
    return [ratio.value, ratio.low, ratio.high, ratio.p, ratio.verdict]
