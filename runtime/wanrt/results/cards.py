"""Benches of several cards as one result: what holds for the next card of the model.

A card is the unit, as a load is within one bench: two cards of a model differ by a few tenths of a
per cent, and no number of loads of one of them says how far. So each card counts once, by the ratio
that its own bench came to beside its own baseline; the interval over cards is Student's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import stdev

from wanrt.errors import ResultsError
from wanrt.results.alike import check_alike, key_of, note_differences
from wanrt.results.ratios import SIGNIFICANT, Band
from wanrt.results.result import BenchResult, CandidateResult, GroupResult
from wanrt.results.stats import Estimate, average, correct_holm, predict_next
from wanrt.results.values import Probe, Ratio, Verdict

__all__ = ["LEAST_CARDS", "Card", "Combined", "CombinedGroup", "CombinedRow", "combine_cards"]

LEAST_CARDS = 3
"""Student's interval of two cards is more than three times as wide as that of three."""

SHORT = 12
UNKNOWN_CARDS = (
    "these results don't say which card they are of (a CPU has no UUID, nor has a GPU without "
    "nvidia-smi), so they may be several benches of one: no interval over cards"
)


@dataclass(frozen=True)
class Card:
    """One card's bench: its name here, its UUID if it is known, and the file of its results."""

    name: str
    uuid: str | None
    file: str
    started: str


@dataclass(frozen=True)
class CombinedRow:
    """A candidate over cards.

    `row` says what it is, as the first card's bench does; its ratio is the geometric mean over
    cards, with Student's interval if there is one, and nothing else in it was measured. `cards` are
    the rows that each card's bench has, in the cards' order. `band` is the widest of any card's
    controls: nothing within it is claimed of this candidate. `spread` is the standard deviation of
    a card's log ratio, each bench's own error included, and `ahead` where the ratio of the next
    card's bench will be, with 95 %.
    """

    row: CandidateResult
    cards: tuple[CandidateResult, ...]
    band: Band | None = None
    spread: float | None = None
    ahead: tuple[float, float] | None = None

    @property
    def counted(self) -> int:
        """How many cards have a ratio of it."""
        return len(_list_ratios(self.cards))


@dataclass(frozen=True)
class CombinedGroup:
    """The candidates of one model and workload, without controls; `band` is the controls' widest.

    `notes` are what a reader must know of single cards.
    """

    model: str
    workload: str
    rows: tuple[CombinedRow, ...]
    band: Band | None
    notes: tuple[str, ...]

    @property
    def group(self) -> GroupResult:
        """The same as one bench would have it, for what shows benches."""
        rows = tuple(row.row for row in self.rows)
        return GroupResult(self.model, self.workload, rows, notes=self.notes, band=self.band)


@dataclass(frozen=True)
class Combined:
    """What several cards found. What their benches share (versions, options) is in `first`."""

    first: BenchResult
    cards: tuple[Card, ...]
    groups: tuple[CombinedGroup, ...]
    notes: tuple[str, ...]

    @property
    def pooled(self) -> bool:
        """Whether there is an interval over cards."""
        return _can_pool(self.cards)


def combine_cards(benches: Sequence[tuple[str, BenchResult]]) -> Combined:
    """Combine benches of one card each, named by their files.

    Raises:
        ResultsError: two are of one card, one isn't whole, or they don't compare: other engines,
            workloads, versions or options.
    """
    if not benches:
        raise ResultsError("nothing to combine", "give the results of a bench per card")
    check_alike(benches)
    cards = _name_cards(benches)
    results = [result for _, result in benches]
    groups = [_combine_group(group, results, cards) for group in results[0].groups]
    notes = note_differences([(card.name, r) for card, r in zip(cards, results, strict=True)])
    if any(card.uuid is None for card in cards):
        notes = [UNKNOWN_CARDS, *notes]
    return Combined(results[0], tuple(cards), tuple(_judge(groups)), tuple(notes))


def _can_pool(cards: Sequence[Card]) -> bool:
    return len(cards) >= LEAST_CARDS and all(card.uuid is not None for card in cards)


def _name_cards(benches: Sequence[tuple[str, BenchResult]]) -> list[Card]:
    """Name cards by what tells them apart: the start of a UUID, or else the file."""
    uuids = [result.machine.gpu_uuid for _, result in benches]
    shorts = {uuid[:SHORT] for uuid in uuids if uuid is not None}
    unique = None not in uuids and len(shorts) == len(uuids)
    return [
        Card((uuid[:SHORT] if unique else uuid) if uuid else file, uuid, file, result.started)
        for (file, result), uuid in zip(benches, uuids, strict=True)
    ]


def _combine_group(
    group: GroupResult, results: Sequence[BenchResult], cards: Sequence[Card]
) -> CombinedGroup:
    """Bring together what the cards have of one model and workload; nothing is claimed yet."""
    place = group.model, group.workload
    members = [next(g for g in r.groups if (g.model, g.workload) == place) for r in results]
    by_key = [{key_of(row): row for row in member.candidates} for member in members]
    pool = _can_pool(cards)
    rows = [
        _combine_row(tuple(own[key_of(row)] for own in by_key), members, pool=pool)
        for row in group.candidates
        if not row.control
    ]
    notes = [
        f"{card.name}: {text}"
        for card, member in zip(cards, members, strict=True)
        for text in _list_troubles(member)
    ]
    band = _widest([member.band for member in members])
    return CombinedGroup(*place, tuple(rows), band, tuple(notes))


def _combine_row(
    cards: tuple[CandidateResult, ...], members: Sequence[GroupResult], *, pool: bool
) -> CombinedRow:
    bare = replace(
        cards[0], forwards=(), probe=Probe(), clocks=None, energy=None, units=None, ratio=None,
        predicted_s=None, moved=None, least_moved=None, advice=(), skipped=None, failed=None,
    )  # fmt: skip
    ratios = _list_ratios(cards)
    if not ratios:
        return CombinedRow(bare, cards)
    if ratios[0].verdict == "baseline":
        return CombinedRow(replace(bare, ratio=_over_cards(ratios, Estimate(0.0, 0.0, 0.0))), cards)
    band = _widest([_find_band(m, row) for m, row in zip(members, cards, strict=True)])
    logs = [math.log(ratio.value) for ratio in ratios]
    estimate = average(logs)
    if not pool or len(logs) < LEAST_CARDS:
        ratio = _over_cards(ratios, Estimate(estimate.value))
        return CombinedRow(replace(bare, ratio=ratio), cards, band)
    below, above = predict_next(logs)
    row = replace(bare, ratio=_over_cards(ratios, estimate))
    return CombinedRow(row, cards, band, stdev(logs), (math.exp(below), math.exp(above)))


def _over_cards(ratios: Sequence[Ratio], estimate: Estimate) -> Ratio:
    """Return a log ratio over cards as a ratio, from all their loads and rounds."""
    low, high = (None if end is None else math.exp(end) for end in (estimate.low, estimate.high))
    loads, rounds = sum(r.loads for r in ratios), sum(r.rounds for r in ratios)
    verdict: Verdict = "baseline" if ratios[0].verdict == "baseline" else "unresolved"
    return Ratio(math.exp(estimate.value), low, high, loads, rounds, estimate.p, verdict)


def _list_ratios(cards: Sequence[CandidateResult]) -> list[Ratio]:
    return [row.ratio for row in cards if row.ratio is not None]


def _find_band(member: GroupResult, row: CandidateResult) -> Band | None:
    """Return what one card's controls span with 1: those that have the row's own baseline.

    A merged engine is a control of the others; it is itself held against A/A alone.
    """
    shown = [
        other.ratio.value
        for other in member.candidates
        if other.ratio is not None
        and (other.baseline, other.baseline_dtype) == (row.baseline, row.baseline_dtype)
        and (other.control or (other.mode == "merged" and row.mode != "merged"))
    ]
    return (min(1.0, *shown), max(1.0, *shown)) if shown else None


def _widest(bands: Sequence[Band | None]) -> Band | None:
    known = [band for band in bands if band is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def _list_troubles(member: GroupResult) -> list[str]:
    """Say what of one card's group has no figures, and what its bench warned of."""
    reasons = [
        f"{member.row_name(row)} {'failed' if row.failed else 'was skipped'}: "
        f"{row.failed or row.skipped}"
        for row in member.candidates
        if row.failed or row.skipped
    ]
    codes = sorted({advice.code for row in member.candidates for advice in row.advice})
    return [*reasons, *([f"warned of {', '.join(codes)}"] if codes else [])]


def _judge(groups: Sequence[CombinedGroup]) -> list[CombinedGroup]:
    """Correct all p-values together (Holm), and claim what is beyond every card's controls."""
    places = [
        (g, i, row.row.ratio)
        for g, group in enumerate(groups)
        for i, row in enumerate(group.rows)
        if row.row.ratio is not None and row.row.ratio.p is not None
    ]
    corrected = correct_holm([ratio.p or 0.0 for _, _, ratio in places])
    rows = [list(group.rows) for group in groups]
    for (g, i, ratio), p in zip(places, corrected, strict=True):
        verdict: Verdict = "same"
        low, high = rows[g][i].band or (1.0, 1.0)
        if p < SIGNIFICANT and not low <= ratio.value <= high:
            verdict = "faster" if ratio.value > 1 else "slower"
        judged = replace(ratio, p=p, verdict=verdict)
        rows[g][i] = replace(rows[g][i], row=replace(rows[g][i].row, ratio=judged))
    return [replace(group, rows=tuple(own)) for group, own in zip(groups, rows, strict=True)]
