"""What benches of several cards must share to be one result, and what they may differ in."""

from __future__ import annotations

from collections.abc import Sequence, Set
from itertools import combinations

from wanrt.errors import ResultsError
from wanrt.results.regression import list_differences
from wanrt.results.result import BenchResult, CandidateResult, GroupResult

__all__ = ["check_alike", "key_of", "note_differences"]

Named = tuple[str, BenchResult]
Key = tuple[str, str, bool, str | None]

HOST = ("processor", "cores", "threads", "memory_bytes", "system")
"""What is around a GPU; a CPU's bench may differ in the last two alone."""

ENGINE = (
    "mode", "rank", "target_set", "scheme", "batch", "tokens", "flops", "random_weights",
    "verified", "full_finetune", "identity",
)  # fmt: skip
BASELINE = ("baseline", "baseline_dtype")
SAME_ENGINE = (
    "bench the same engine folders on every card: a shared path, or copies made with cp -a"
)


def check_alike(benches: Sequence[Named]) -> None:
    """Refuse what can't be combined: each bench against the others, by the names of their files.

    Raises:
        ResultsError: two are of one card, one isn't whole, or engines, workloads, versions or
            options differ.
    """
    for file, result in benches:
        _check_whole(file, result)
    for first, second in combinations(benches, 2):
        _check_cards(first, second)
    first = benches[0]
    for other in benches[1:]:
        _check_machines(first, other)
        _check_groups(first, other)


def key_of(row: CandidateResult) -> Key:
    """Return what a row is called among those of its model and workload."""
    return row.label, row.dtype, row.control, row.rival


def note_differences(cards: Sequence[Named]) -> list[str]:
    """Say what is around the cards and isn't the same, and what was left out of their benches.

    Args:
        cards: names of cards, and what their benches found.
    """
    first_name, first = cards[0]
    notes = []
    for name, result in cards:
        differences = list_differences(first, result.machine, result.options)
        notes += [
            f"{name}: another {field} than {first_name}: {theirs}, not {own}"
            for field, (own, theirs) in differences.items()
            if field in HOST
        ]
        notes += [f"{name}: failed: {why}" for why in result.broken.values()]
        codes = sorted({advice.code for advice in result.advice})
        notes += [f"{name}: warned of {', '.join(codes)}"] if codes else []
    return notes


def _check_whole(file: str, result: BenchResult) -> None:
    if result.interrupted:
        raise ResultsError(
            f"{file} is of an interrupted bench",
            f"finish it first: wanrt bench ... --resume --json {file}",
        )
    for group in result.groups:
        keys = [key_of(row) for row in group.candidates]
        if twice := next((key for key in keys if keys.count(key) > 1), None):
            raise ResultsError(
                f"{file} holds {twice[0]} {twice[1]} of {_place(group)} twice", "bench again"
            )


def _check_cards(first: Named, second: Named) -> None:
    (a, mine), (b, theirs) = first, second
    uuid = mine.machine.gpu_uuid
    if uuid is not None and uuid == theirs.machine.gpu_uuid:
        raise ResultsError(
            f"{a} and {b} are of one card, {uuid}: benches of one card aren't pooled",
            "choose one of them; a card counts once, however often it was measured",
        )
    if uuid is None and mine.started == theirs.started and mine.groups == theirs.groups:
        raise ResultsError(f"{a} and {b} are the same bench", "leave one of them out")


def _check_machines(first: Named, other: Named) -> None:
    (a, mine), (b, theirs) = first, other
    gpu = mine.machine.gpu is not None
    allowed = ("gpu_uuid", *(HOST if gpu else HOST[-2:]))
    for name, values in list_differences(mine, theirs.machine, theirs.options).items():
        if name not in allowed:
            raise ResultsError(
                f"{b} ran with another {name} than {a}: {values[1]}, not {values[0]}",
                "combine benches with the same versions and options, of cards of one model",
            )
    if mine.timed != theirs.timed:
        raise ResultsError(
            f"a forward isn't the same in {a} and {b}: {mine.timed}; {theirs.timed}",
            "bench them with the same release",
        )


def _check_groups(first: Named, other: Named) -> None:
    (a, mine), (b, theirs) = first, other
    groups, others = ({_place(g): g for g in result.groups} for result in (mine, theirs))
    _check_names(a, b, groups.keys(), others.keys())
    for place, group in groups.items():
        rows = {key_of(row): row for row in group.candidates}
        other_rows = {key_of(row): row for row in others[place].candidates}
        names, other_names = (
            {f"{place}, {_row_name(row)}" for row in found.values()} for found in (rows, other_rows)
        )
        _check_names(a, b, names, other_names)
        for key, row in rows.items():
            _check_rows(f"{place}, {_row_name(row)}", (a, row), (b, other_rows[key]))


def _check_names(a: str, b: str, names: Set[str], others: Set[str]) -> None:
    for has, lacks, missing in ((a, b, names - others), (b, a, others - names)):
        if missing:
            raise ResultsError(f"{lacks} lacks what {has} holds: {min(missing)}", SAME_ENGINE)


def _check_rows(
    name: str, first: tuple[str, CandidateResult], other: tuple[str, CandidateResult]
) -> None:
    (a, mine), (b, theirs) = first, other
    compared = mine.ratio is not None and theirs.ratio is not None
    for field in (*ENGINE, *(BASELINE if compared else ())):
        own, others = getattr(mine, field), getattr(theirs, field)
        if own != others:
            shown = "the SHA-256 of engine.json" if field == "identity" else field
            raise ResultsError(
                f"{name}: {shown} differs between {a} and {b}: {own}, {others}", SAME_ENGINE
            )


def _row_name(row: CandidateResult) -> str:
    return f"{row.label} {row.dtype}" + (" (control)" if row.control else "")


def _place(group: GroupResult) -> str:
    return f"{group.model} {group.workload}"
