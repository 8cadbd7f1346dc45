"""The units that people compare, as a table: a step, a video, memory, energy, error."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from wanrt.results.result import CandidateResult, GroupResult
from wanrt.results.video import Video
from wanrt.terminal.text import columns, counted
from wanrt.terminal.units import BYTES, SECONDS, SI, Unit, pick, shorten, show

__all__ = [
    "JOULES",
    "LABEL",
    "number_cells",
    "show_error",
    "unit_lines",
    "unit_table",
    "video_notes",
]

JOULES: tuple[Unit, ...] = tuple((size, f"{prefix}J") for size, prefix in SI)
LABEL = 22
Numbers = Sequence[float | None]


def video_notes(video: Video | None) -> list[str]:
    """Return what the units are of, and the published figures, each with source and hardware."""
    if video is None:
        return []
    name = f"{video.workload}: " if video.workload else ""
    forwards = counted(video.forwards_per_step, "forward")
    steps = f"a video is {counted(video.steps, 'step')} of " if video.steps else "a step is "
    return [
        f"{name}{steps}{forwards}; text encoder and VAE are not part of it",
        *(
            f"published: {p.who} {p.figure:g} {p.unit} on {p.hardware} ({p.source})"
            for p in video.published
        ),
    ]


def unit_table(group: GroupResult, rows: Iterable[CandidateResult]) -> list[tuple[str, ...]]:
    """Return a header and a line per measured row; a column that nothing is known of is left out.

    Args:
        group: whose rows they are.
        rows: those to show.
    """
    counted_rows = [(row, row.units) for row in rows if row.units is not None]
    if not counted_rows:
        return []
    units = [found for _, found in counted_rows]
    table = [
        ("candidate", *(shorten(group.row_name(row), LABEL) for row, _ in counted_rows)),
        ("step", *number_cells([one.step_s for one in units], SECONDS)),
        ("video", *number_cells([one.video_s for one in units], SECONDS)),
        ("memory", *number_cells([row.peak_bytes for row, _ in counted_rows], BYTES)),
        ("energy", *number_cells([one.video_j for one in units], JOULES)),
        ("error", *(show_error(row) for row, _ in counted_rows)),
    ]
    return list(zip(*(column for column in table if set(column[1:]) != {"-"}), strict=True))


def unit_lines(group: GroupResult, rows: Iterable[CandidateResult]) -> list[str]:
    """Return the table's lines for a terminal, flush."""
    table = unit_table(group, rows)
    return columns(table) if table else []


def show_error(row: CandidateResult) -> str:
    """Return how far an engine's outputs are off, or that nobody looked."""
    if row.rival:
        return "-"
    if not row.verified:
        return "unverified"
    return "-" if row.error is None else f"{row.error:.1e}"


def number_cells(values: Numbers, units: tuple[Unit, ...]) -> list[str]:
    """Return numbers in one unit, as tables of a bench have them; a dash for what isn't known."""
    known = [value for value in values if value is not None]
    if not known:
        return ["-"] * len(values)
    unit = pick(units, max(known) if units is BYTES else min(known))
    return ["-" if value is None else show(value, unit) for value in values]
