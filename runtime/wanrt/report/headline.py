"""What a bench found, in words: the sentences above a table, a report and its files."""

from __future__ import annotations

from collections.abc import Sequence

from wanrt.results.result import BenchResult, CandidateResult, GroupResult
from wanrt.results.values import Ratio
from wanrt.terminal.units import RATES, pick, show

__all__ = [
    "headline", "marks", "sentences", "shared_marks", "show_interval", "summary_lines",
]  # fmt: skip


def summary_lines(result: BenchResult) -> list[str]:
    """Return a line per model and workload, named where there are several."""
    if not result.groups:
        return ["nothing was measured: no engine could be read"]
    several = len(result.groups) > 1
    return [
        f"{group.model} {group.workload}: {headline(group)}" if several else headline(group)
        for group in result.groups
    ]


def headline(group: GroupResult) -> str:
    """Return the answer to what LoRA costs, or what else is known; there is always something."""
    return sentences(group)[0]


def sentences(group: GroupResult) -> list[str]:
    """Return a short sentence per mode and rival, the answer first; else one on why there is none.

    What holds for the weights of all rows stands at the end of each.
    """
    tail = _bracket(shared_marks(group))
    return [text + tail for text in _comparisons(group) or [_silence(group)]]


def shared_marks(group: GroupResult) -> tuple[str, ...]:
    """Return the marks that all measured rows share; those of single rows stay with their names."""
    told = {marks(row) for row in group.candidates if row.forwards}
    return next(iter(told)) if len(told) == 1 else ()


def marks(row: CandidateResult) -> tuple[str, ...]:
    """Return what a reader must know about a row's weights."""
    random = ("random weights",) if row.random_weights else ()
    return random if row.verified else (*random, "unverified")


def show_interval(ratio: Ratio) -> tuple[str, str, str]:
    """Return a ratio and its interval; one that excludes 1 never reads as 1."""
    low = ratio.value if ratio.low is None else ratio.low
    high = ratio.value if ratio.high is None else ratio.high
    digits = 3
    if ratio.verdict in ("slower", "faster"):
        nearest = high if ratio.verdict == "slower" else low
        digits = next((d for d in range(3, 6) if round(nearest, d) != 1), 6)
    return f"{ratio.value:.{digits}f}", f"{low:.{digits}f}", f"{high:.{digits}f}"


def _comparisons(group: GroupResult) -> list[str]:
    """Return a sentence per mode and rival that was compared, unmerged adapters first."""
    rows = [row for row in group.candidates if not row.control and row.ratio is not None]
    found = []
    for mode in ("separate", "swappable", "merged"):
        members = [row for row in rows if row.mode == mode and row.rival is None]
        if members:
            found.append(_costs(mode, members, group) + _own_marks(members, group))
    rivals = [row for row in rows if row.rival is not None]
    return found + [_compare_rival(row, group) + _own_marks([row], group) for row in rivals]


def _costs(mode: str, rows: Sequence[CandidateResult], group: GroupResult) -> str:
    """Say what a mode's adapters cost on each set of layers, the usual one first."""
    by_targets: dict[str, list[CandidateResult]] = {}
    for row in sorted(rows, key=lambda row: _layers(row) != ""):
        by_targets.setdefault(_layers(row), []).append(row)
    first, *others = (_cost(mode, on, members, group) for on, members in by_targets.items())
    return "; ".join([first, *(text[0].lower() + text[1:] for text in others)])


def _layers(row: CandidateResult) -> str:
    """Say which layers an adapter sits on, unless it is cross-attention or its LoRA's own."""
    if row.target_set in (None, "cross-attention"):
        return ""
    return " on all linear layers" if row.target_set == "all" else f" on {row.target_set}"


def _cost(mode: str, on: str, rows: Sequence[CandidateResult], group: GroupResult) -> str:
    """Say what adapters cost: all of them, or the least and the most that was found."""
    pairs = [(row, row.ratio) for row in rows if row.ratio is not None]
    only = rows[0].rank if len(rows) == 1 else None
    subject = f"{mode} adapter of rank {only}{on}" if only else f"{mode} adapter{on}"
    moved = sorted(
        (pair for pair in pairs if pair[1].verdict in ("slower", "faster")),
        key=lambda pair: -pair[1].value,
    )
    unresolved = sum(1 for _, ratio in pairs if ratio.verdict == "unresolved")
    if unresolved == len(pairs):
        return f"What a {subject} costs couldn't be resolved"
    if not moved:
        rest = f" ({unresolved} of {len(pairs)} couldn't be resolved)" if unresolved else ""
        return f"A {subject} costs nothing measurable{rest}"
    if len(pairs) == 1:
        cost, ends = _percents(moved[0][1])
        verb = "costs" if moved[0][1].verdict == "slower" else "gains"
        return f"A {subject} {verb} {cost} of the speed ({ends})"
    shown = moved[-1:] if len(moved) < len(pairs) else [*moved[:1], *moved[-1:]]
    costs = [_percents(ratio)[0] for _, ratio in shown]
    if len(shown) > 1 and costs[0] == costs[1]:
        return f"A {subject} costs {costs[0]} of the speed"
    told = " to ".join(
        f"{cost} ({_which(row, group)})" for cost, (row, _) in zip(costs, shown, strict=True)
    )
    return f"A {subject} costs {'up to ' if len(shown) == 1 else ''}{told} of the speed"


def _compare_rival(row: CandidateResult, group: GroupResult) -> str:
    """Say how fast a rival is beside the full fine-tune."""
    name = group.row_name(row)
    if row.ratio is None or row.ratio.verdict == "unresolved":
        return f"How fast {name} is couldn't be resolved"
    if row.ratio.verdict not in ("slower", "faster"):
        return f"{name} is as fast as the full fine-tune, as far as can be measured"
    cost, ends = _percents(row.ratio)
    return f"{name} is {cost} {row.ratio.verdict} than the full fine-tune ({ends})"


def _percents(ratio: Ratio) -> tuple[str, str]:
    """Return by how many per cent the speed differs, and the interval; as exact as a table's."""
    texts = show_interval(ratio)
    digits = max(0, len(texts[0].partition(".")[2]) - 2)
    value, *ends = (100 * (1 - float(text)) for text in texts)
    if ratio.verdict == "faster":
        value, *ends = (-cost for cost in (value, *ends))
    low, high = sorted(ends)
    return f"{value:.{digits}f} %", f"{low:.{digits}f} to {high:.{digits}f} %"


def _which(row: CandidateResult, group: GroupResult) -> str:
    """Tell one of a mode's candidates from the others: by its rank, if that does."""
    alike = [
        other
        for other in group.candidates
        if (other.mode, _layers(other)) == (row.mode, _layers(row)) and not other.rival
    ]
    ranks = [other.rank for other in alike]
    if row.rank is not None and ranks.count(row.rank) == 1:
        return f"rank {row.rank}"
    return group.row_name(row).removeprefix(row.mode).strip() or row.engine


def _own_marks(rows: Sequence[CandidateResult], group: GroupResult) -> str:
    """Return what holds for the weights of any of the rows, unless it stands at the end for all."""
    if shared_marks(group):
        return ""
    return _bracket(list(dict.fromkeys(mark for row in rows for mark in marks(row))))


def _silence(group: GroupResult) -> str:
    measured = [row for row in group.candidates if row.forwards and not row.control]
    if not measured:
        failed = sum(1 for row in group.candidates if row.failed)
        skipped = sum(1 for row in group.candidates if row.skipped)
        return f"nothing was measured: {skipped} skipped, {failed} failed"
    best = max(measured, key=lambda row: row.tokens_per_s or 0.0)
    rate = best.tokens_per_s or 0.0
    why = "nothing was compared with it"
    if best.baseline is None:
        why = "no ratios: no `full` engine was measured beside it"
    name = _name(best, group)
    return f"{name} runs at {show(rate, pick(RATES, rate))} tokens per second, {why}"


def _name(row: CandidateResult, group: GroupResult) -> str:
    """Return a row's name, with its marks unless they stand at the end for all."""
    return group.row_name(row) + ("" if shared_marks(group) else _bracket(marks(row)))


def _bracket(words: Sequence[str]) -> str:
    return f" [{', '.join(words)}]" if words else ""
