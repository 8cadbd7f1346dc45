"""The page's table of when merging an adapter pays."""

from __future__ import annotations

from wanrt.report.headline import marks
from wanrt.results.breakeven import BreakEven, break_evens
from wanrt.results.result import GroupResult
from wanrt.results.video import Video
from wanrt.terminal.units import SECONDS, pick, show, show_bytes

__all__ = ["MERGING_COLUMNS", "merging_cells", "merging_note", "merging_rows"]

MERGING_COLUMNS = (
    "adapter", "load", "own disk", "saved per forward", "pays after", "per minute of building",
)  # fmt: skip
USUAL = Video(steps=50, forwards_per_step=2)
"""A video of a bench that wasn't asked for one: Wan2.1's own steps, with guidance."""
NOTE = (
    "For each new adapter, a merged engine has to be built or refitted, stored and loaded; a "
    "swappable one exchanges it in milliseconds, but runs slower. After so many videos with one "
    "adapter, loading has paid; in brackets, the 95 % interval of the swappable engine's ratio. A "
    "video is {forwards} forwards here: {steps} sampler steps{guidance}. A bench doesn't measure "
    "building or refitting: each of their minutes takes as many videos more as the last column "
    "says."
)
NEVER = "never: nothing measurable is saved"


def merging_note(video: Video | None) -> str:
    """Return what the table says, and of which videos."""
    counted = _counted(video)
    each = counted.forwards_per_step
    guidance = {1: "", 2: " with guidance"}.get(each, f" of {each} forwards")
    assert counted.steps is not None
    return NOTE.format(forwards=counted.steps * each, steps=counted.steps, guidance=guidance)


def merging_rows(group: GroupResult, video: Video | None) -> list[tuple[str, ...]]:
    """Return the table's cells, a row per rank measured both merged and swappable."""
    return [merging_cells(one, group) for one in break_evens(group, _counted(video))]


def _counted(video: Video | None) -> Video:
    return video if video is not None and video.steps is not None else USUAL


def merging_cells(one: BreakEven, group: GroupResult) -> tuple[str, ...]:
    """Return a line of the table, of one rank."""
    said = ", ".join(dict.fromkeys((*marks(one.merged), *marks(one.swappable))))
    name = group.row_name(one.merged) + (f" [{said}]" if said else "")
    known = (name, _time(one.load_s), show_bytes(one.disk_bytes))
    if one.saved_s is None:
        return (*known, "", NEVER, "")
    return (*known, _time(one.saved_s), _videos(one, one.load_s), _videos(one, 60.0))


def _videos(one: BreakEven, spent_s: float) -> str:
    videos, interval = one.videos(spent_s), one.videos_interval(spent_s)
    text = f"{_number(videos)} videos"
    if interval is None:
        return text
    fewest, most = interval
    ends = f"{_number(fewest)} to {_number(most)}" if most else f"{_number(fewest)} or more"
    return f"{text} ({ends})"


def _number(value: float | None) -> str:
    assert value is not None
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _time(seconds: float) -> str:
    return show(seconds, pick(SECONDS, seconds))
