"""What a whole video takes of Wan2.2's two experts, whose engines are groups of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from wanrt.bench.groups import Group
from wanrt.manifest.experts import count_steps
from wanrt.manifest.schema import Manifest
from wanrt.results.result import GroupResult
from wanrt.terminal.units import SECONDS, pick, show

__all__ = ["note_videos"]


def note_videos(groups: Sequence[Group], results: Sequence[GroupResult]) -> tuple[GroupResult, ...]:
    """Add what a video takes to the notes of each low-noise expert whose other half ran, too.

    That is high steps x the high-noise expert's forward + low steps x the low-noise one's.
    """
    found = {_key(group): result for group, result in zip(groups, results, strict=True)}
    noted = []
    for group, result in zip(groups, results, strict=True):
        manifest = group.candidates[0].manifest
        high = found.get(_key(group, "high")) if manifest.expert == "low" else None
        text = _show_videos(manifest, high, result) if high else ""
        noted.append(replace(result, notes=(*result.notes, text)) if text else result)
    return tuple(noted)


def _key(group: Group, expert: str | None = None) -> tuple[object, ...]:
    """Return what tells a group from others; of a pair's, whichever `expert` is asked for."""
    manifest = group.candidates[0].manifest
    alike = {**manifest.compared_by, "expert": expert or manifest.expert}
    return group.name, manifest.model, *sorted(alike.items())


def _show_videos(manifest: Manifest, high: GroupResult, low: GroupResult) -> str:
    experts = manifest.config.get("experts")
    if not isinstance(experts, dict):
        return ""
    first, last = count_steps(experts["boundary"], experts["steps"], experts["shift"])
    others = {(row.label, row.dtype): row.seconds for row in high.candidates if not row.control}
    times = []
    for row in low.candidates:
        other = others.get((row.label, row.dtype))
        if row.control or row.seconds is None or other is None:
            continue
        total = first * other + last * row.seconds
        times.append(f"{low.row_name(row)} {show(total, pick(SECONDS, total))}")
    if not times:
        return ""
    return (
        f"a video: {first} steps of the high-noise expert and {last} of this one (boundary "
        f"{experts['boundary']:g}), a forward each, or two with guidance. One forward a step: "
        f"{'; '.join(times)}"
    )
