"""What several cards found, as JSON: docs/results.md lists the fields."""

from __future__ import annotations

import json
from dataclasses import asdict

from wanrt.results.cards import Combined, CombinedGroup, CombinedRow

__all__ = ["to_json"]

FORMAT = 1
ENGINE = (
    "label", "identity", "mode", "rank", "dtype", "target_set", "rival", "random_weights",
    "verified", "full_finetune", "scheme", "batch", "tokens", "flops", "baseline", "baseline_dtype",
)  # fmt: skip


def to_json(combined: Combined) -> str:
    """Return what was combined; every forward stays in the cards' own files."""
    first = combined.first
    value = {
        "combined": FORMAT,
        "context": {
            "machine": asdict(first.machine.lasting),
            "options": first.options,
            "timed": first.timed,
            "pooled": combined.pooled,
            "notes": combined.notes,
        },
        "cards": [asdict(card) for card in combined.cards],
        "groups": [
            {"model": g.model, "workload": g.workload, "band": g.band, "notes": g.notes}
            for g in combined.groups
        ],
        "results": [_row(combined, group, r) for group in combined.groups for r in group.rows],
    }
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def _row(combined: Combined, group: CombinedGroup, row: CombinedRow) -> dict[str, object]:
    what = row.row
    ratio = asdict(what.ratio) if what.ratio else None
    by_card = zip(combined.cards, row.cards, strict=True)
    return {
        "model": group.model,
        "workload": group.workload,
        **{name: getattr(what, name) for name in ENGINE},
        "cards": row.counted,
        "ratio": ratio,
        "spread": row.spread,
        "next_card": dict(zip(("low", "high"), row.ahead, strict=True)) if row.ahead else None,
        "band": row.band,
        "by_card": [
            {
                "card": card.uuid or card.name,
                "ratio": asdict(own.ratio) if own.ratio else None,
                "tokens_per_s": own.tokens_per_s,
                "skipped": own.skipped,
                "failed": own.failed,
            }
            for card, own in by_card
        ],
    }
