"""When a merged engine pays: it costs loading and disk once, a swappable one time every forward."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from wanrt.results.result import CandidateResult, GroupResult
from wanrt.results.values import Ratio
from wanrt.results.video import Video

__all__ = ["BreakEven", "break_evens"]


@dataclass(frozen=True)
class BreakEven:
    """A merged and a swappable engine of one rank, beside each other.

    Args:
        merged: the row of the merged engine.
        swappable: the row of the swappable engine with an adapter of that rank.
        load_s: what loading the merged engine takes, with none of its files in memory if known.
        disk_bytes: what the merged engine adds to the disk, if known.
        forwards: of a video.
        saved_s: seconds by which a merged forward is shorter; None where nothing was measurable.
        saved_interval: its 95 % interval, lower end first.
    """

    merged: CandidateResult
    swappable: CandidateResult
    load_s: float
    disk_bytes: int | None
    forwards: int
    saved_s: float | None = None
    saved_interval: tuple[float, float] | None = None

    def videos(self, spent_s: float) -> float | None:
        """Return after how many videos merging has saved so many seconds; None if it never does."""
        return self._videos(spent_s, self.saved_s)

    def videos_interval(self, spent_s: float) -> tuple[float, float | None] | None:
        """Return the same for both ends of the interval; the upper one may never come."""
        if self.saved_interval is None:
            return None
        least, most = self.saved_interval
        fewest = self._videos(spent_s, most)
        return None if fewest is None else (fewest, self._videos(spent_s, least))

    def _videos(self, spent_s: float, saved_s: float | None) -> float | None:
        if saved_s is None or saved_s <= 0:
            return None
        return spent_s / (saved_s * self.forwards)


def break_evens(group: GroupResult, video: Video) -> list[BreakEven]:
    """Return a comparison per rank and layers that were measured both merged and swappable.

    Args:
        group: what was measured.
        video: what counts as one; without a number of steps, nothing is compared.
    """
    if video.steps is None:
        return []
    forwards = video.steps * video.forwards_per_step
    rows = [row for row in group.candidates if row.rival is None and not row.control]
    swappable = {_kind(row): row for row in rows if row.mode == "swappable"}
    found = []
    for merged in (row for row in rows if row.mode == "merged"):
        other = swappable.get(_kind(merged))
        load_s = merged.probe.cold_load_s or merged.probe.warm_load_s
        full_s = _baseline_seconds(merged, rows)
        if other is None or load_s is None or full_s is None or not _known(merged, other):
            continue
        saved, interval = _saved(full_s, merged.ratio, other.ratio)
        found.append(
            BreakEven(merged, other, load_s, _own_bytes(merged), forwards, saved, interval)
        )
    return found


def _kind(row: CandidateResult) -> tuple[int | None, str, str | None]:
    """Return what a merged and a swappable engine must have alike to replace each other."""
    return row.rank, row.dtype, row.target_set


def _known(*rows: CandidateResult) -> bool:
    """Tell whether every row was compared with the baseline, and with a result."""
    return all(row.ratio is not None and row.ratio.verdict != "unresolved" for row in rows)


def _baseline_seconds(row: CandidateResult, rows: Iterable[CandidateResult]) -> float | None:
    bases = (o for o in rows if (o.label, o.dtype) == (row.baseline, row.baseline_dtype))
    return next((base.seconds for base in bases), None)


def _own_bytes(row: CandidateResult) -> int | None:
    if row.probe.disk_bytes is None:
        return None
    return row.probe.disk_bytes - (row.probe.shared_bytes or 0)


def _saved(
    full_s: float, merged: Ratio | None, swappable: Ratio | None
) -> tuple[float | None, tuple[float, float] | None]:
    """Return what a merged forward saves; what isn't measurable counts as no difference."""
    assert merged is not None
    assert swappable is not None
    if swappable.verdict != "slower":
        return None, None
    merged_s = full_s if merged.verdict == "same" else full_s / merged.value
    saved = full_s / swappable.value - merged_s
    if saved <= 0:
        return None, None
    if swappable.low is None or swappable.high is None:
        return saved, None
    return saved, (full_s / swappable.high - merged_s, full_s / swappable.low - merged_s)
