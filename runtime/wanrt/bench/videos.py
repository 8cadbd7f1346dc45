"""What a step and a whole video take, of Wan2.2's two experts together where both were measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wanrt.bench.groups import Group
from wanrt.manifest.experts import count_steps
from wanrt.manifest.schema import Manifest
from wanrt.results.result import CandidateResult, GroupResult
from wanrt.results.video import Video, VideoUnits
from wanrt.terminal.units import SECONDS, pick, show

__all__ = ["count_videos"]

Share = tuple[CandidateResult, int]
"""A row, and how many of a video's steps its engine takes."""
BOTH = "a video takes steps of both experts: "


def count_videos(
    groups: Sequence[Group], results: Sequence[GroupResult], video: Video | None
) -> tuple[GroupResult, ...]:
    """Add units to every row, and what a pair's video takes to the notes of the low-noise expert.

    That is high steps x the high-noise expert's forward + low steps x the low-noise one's. The
    experts are groups of their own; engines of the same label and dtype make a video together.

    Args:
        groups: what was planned.
        results: theirs.
        video: whose units are asked for; None adds only what a pair takes at one forward a step.
    """
    found = {_key(group): result for group, result in zip(groups, results, strict=True)}
    counted = []
    for group, result in zip(groups, results, strict=True):
        manifest = group.candidates[0].manifest
        if manifest.expert is None:
            steps = video.steps if video else None
            own = {id(row): [(row, steps)] for row in result.candidates} if steps else {}
            counted.append(_with_units(result, video, own))
            continue
        high = found.get(_key(group, "high")) if manifest.expert == "low" else None
        split = _split_steps(manifest, video) if high else None
        shares = _pair_rows(high, result, split) if high and split else {}
        note = _note_pair(manifest, result, video, shares, split) if split else ""
        if not note and video and video.steps:
            note = _note_half(manifest, found.get(_key(group, "low")))
        noted = replace(result, notes=(*result.notes, note)) if note else result
        counted.append(_with_units(noted, video, shares))
    return tuple(counted)


def _key(group: Group, expert: str | None = None) -> tuple[object, ...]:
    """Return what tells a group from others; of a pair's, whichever `expert` is asked for."""
    manifest = group.candidates[0].manifest
    alike = {**manifest.compared_by, "expert": expert or manifest.expert}
    return group.name, manifest.model, *sorted(alike.items())


def _split_steps(manifest: Manifest, video: Video | None) -> tuple[int, int] | None:
    experts = manifest.config.get("experts")
    if not isinstance(experts, dict):
        return None
    steps = (video.steps if video else None) or experts["steps"]
    return count_steps(experts["boundary"], steps, experts["shift"])


def _pair_rows(
    high: GroupResult, low: GroupResult, split: tuple[int, int]
) -> dict[int, list[Share]]:
    others = {(row.label, row.dtype): row for row in high.candidates}
    shares = {}
    for row in low.candidates:
        other = others.get((row.label, row.dtype))
        if other is not None and other.seconds is not None and row.seconds is not None:
            shares[id(row)] = [(other, split[0]), (row, split[1])]
    return shares


def _with_units(
    result: GroupResult, video: Video | None, shares: dict[int, list[Share]]
) -> GroupResult:
    if video is None:
        return result
    rows = [replace(r, units=_units(r, video, shares.get(id(r), []))) for r in result.candidates]
    return replace(result, candidates=tuple(rows))


def _units(row: CandidateResult, video: Video, shares: Sequence[Share]) -> VideoUnits | None:
    if row.seconds is None:
        return None
    forwards = video.forwards_per_step
    if video.steps is None or not shares:
        return VideoUnits(forwards * row.seconds)
    used = [(other.energy, steps) for other, steps in shares]
    joules = [steps * energy.forward_j for energy, steps in used if energy is not None]
    video_j = forwards * sum(joules) / row.batch if len(joules) == len(used) else None
    return VideoUnits(forwards * row.seconds, forwards * _seconds(shares) / row.batch, video_j)


def _seconds(shares: Sequence[Share]) -> float:
    """Return what all steps take at a forward each, of the whole batch."""
    return sum(steps * (row.seconds or 0.0) for row, steps in shares)


def _note_pair(
    manifest: Manifest,
    low: GroupResult,
    video: Video | None,
    shares: dict[int, list[Share]],
    split: tuple[int, int],
) -> str:
    forwards = video.forwards_per_step if video else 1
    each = {1: "a forward each", 2: "two forwards each"}.get(forwards, f"{forwards} forwards each")
    if video is None:
        each = "a forward each, or two with guidance. One forward a step"
    times = []
    for row in low.candidates:
        if id(row) in shares and not row.control:
            total = forwards * _seconds(shares[id(row)]) / row.batch
            times.append(f"{low.row_name(row)} {show(total, pick(SECONDS, total))}")
    if not times:
        return ""
    experts = manifest.config["experts"]
    assert isinstance(experts, dict)
    return (
        f"a video: {split[0]} steps of the high-noise expert and {split[1]} of this one (boundary "
        f"{experts['boundary']:g}), {each}: {'; '.join(times)}"
    )


def _note_half(manifest: Manifest, low: GroupResult | None) -> str:
    if manifest.expert == "high" and low is not None:
        return BOTH + "what it takes is said of the low-noise one"
    other = "low" if manifest.expert == "high" else "high"
    return BOTH + f"bench the {other}-noise one, too"
