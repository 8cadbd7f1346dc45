"""What a bench found, in words: the sentences above a table, a report and its files."""

from __future__ import annotations

from collections.abc import Sequence

from wanrt.results.result import BenchResult, CandidateResult, GroupResult
from wanrt.results.values import Ratio
from wanrt.terminal.units import RATES, pick, show

__all__ = [
    "headline", "headlines", "marks", "sentences", "shared_marks", "show_interval",
    "summary_lines",
]  # fmt: skip

SPELLED_OUT = 4
"""More candidates than this are summed up by their extremes or their number."""

ADAPTED = ("separate", "swappable")
Members = Sequence[tuple[CandidateResult, Ratio]]


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
    """Return a group's finding in one line, never empty."""
    return "; ".join(sentences(group)) + _bracket(shared_marks(group))


def headlines(group: GroupResult) -> list[str]:
    """Return the comparisons of a group, a sentence each; none if nothing could be compared."""
    tail = _bracket(shared_marks(group))
    return [text + tail for text in _comparisons(group)]


def sentences(group: GroupResult) -> list[str]:
    """Return the comparisons of a group, or else one sentence on why there are none."""
    return _comparisons(group) or [_silence(group)]


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
    """Return a sentence on unmerged adapters, one on merged ones, one on rivals, as there are."""
    rows = [row for row in group.candidates if not row.control]
    subjects = (
        [row for row in rows if row.rival is None and row.mode in ADAPTED],
        [row for row in rows if row.rival is None and row.mode == "merged"],
        [row for row in rows if row.rival is not None],
    )
    return [text for subject in subjects if (text := _compare(subject, group))]


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


def _compare(rows: Sequence[CandidateResult], group: GroupResult) -> str:
    """Say which rows differ from the baseline and by how much, which don't, which nobody knows."""
    compared = [(row, row.ratio) for row in rows if row.ratio is not None]
    moved = [pair for pair in compared if pair[1].verdict in ("slower", "faster")]
    adapted = any(row.mode in ADAPTED for row, _ in compared)
    parts = (_each if len(moved) <= SPELLED_OUT else _ranges)(moved, group)
    for verdict, one, many, what in (
        ("same", "shows", "show", "no measurable difference"),
        ("unresolved", "stays", "stay", "unresolved"),
    ):
        members = [row for row, ratio in compared if ratio.verdict == verdict]
        if members:
            who, plural = _subject(members, len(compared), group)
            than = " to the full fine-tune" if verdict == "same" and adapted and not parts else ""
            parts.append(f"{who} {many if plural else one} {what}{than}")
    return "; ".join(parts)


def _each(members: Members, group: GroupResult) -> list[str]:
    """Say of each candidate how fast it is."""
    parts: list[str] = []
    for row, ratio in members:
        value, interval = _figures(ratio, first=not parts)
        verb = "at" if parts else "runs at"
        parts.append(f"{_name(row, group)} {verb} {value}, {interval}")
    return parts


def _ranges(members: Members, group: GroupResult) -> list[str]:
    """Say of each mode how fast its slowest and its fastest candidate are."""
    parts: list[str] = []
    for mode in dict.fromkeys(row.mode for row, _ in members):
        ours = sorted((m for m in members if m[0].mode == mode), key=lambda m: m[1].value)
        ends: list[str] = []
        for row, ratio in (ours[0], ours[-1])[: len(ours)]:
            value, interval = _figures(ratio, first=not parts and not ends)
            which = _name(row, group).removeprefix(mode).strip() or row.engine
            ends.append(f"{value} ({which}, {interval})")
        parts.append(f"{mode} {'at' if parts else 'runs at'} {' to '.join(ends)}")
    return parts


def _figures(ratio: Ratio, *, first: bool) -> tuple[str, str]:
    """Return a ratio and its interval, the first of a sentence with what they are."""
    value, low, high = show_interval(ratio)
    if first:
        return f"{value} x the full fine-tune", f"95 % interval {low} to {high}"
    return f"{value} x", f"{low} to {high}"


def _subject(rows: Sequence[CandidateResult], of: int, group: GroupResult) -> tuple[str, bool]:
    """Name rows, all or many of them by their modes; return also whether that is a plural."""
    modes = list(dict.fromkeys(row.mode for row in rows))
    if len(rows) == of > 1 and shared_marks(group) and not any(row.rival for row in rows):
        return _join(modes), len(modes) > 1
    if len(rows) > SPELLED_OUT:
        return f"{len(rows)} of {of} {_join(modes)} candidates", True
    return _join([_name(row, group) for row in rows]), len(rows) > 1


def _name(row: CandidateResult, group: GroupResult) -> str:
    """Return a row's name, with its marks unless they stand at the end for all."""
    return group.row_name(row) + ("" if shared_marks(group) else _bracket(marks(row)))


def _join(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _bracket(words: Sequence[str]) -> str:
    return f" [{', '.join(words)}]" if words else ""
