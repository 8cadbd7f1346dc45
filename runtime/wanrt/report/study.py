"""What a study found on each card: points, the frontier, the answer, and a terminal's summary."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wanrt.report.headline import show_interval
from wanrt.results.breakeven import BreakEven, break_evens
from wanrt.results.result import BenchResult, CandidateResult, GroupResult
from wanrt.results.study import Cell, Estimate, Study, StudyGroup
from wanrt.results.video import Video
from wanrt.terminal.text import columns, wrap
from wanrt.terminal.units import SECONDS, pick, show, show_bytes, show_share

__all__ = [
    "BOUND", "FRONTIER", "MERGED", "CardFindings", "Point", "answer", "card_cells",
    "estimate_rows", "failures", "find_cards", "group_title", "name_cell", "render_study",
]  # fmt: skip

USUAL = Video(steps=50, forwards_per_step=2)
"""A video of a study that doesn't say: Wan2.1's own steps, with guidance."""
BOUND = "estimate: the least time by rates and bandwidth; nothing was measured there"
MERGED = (
    "merged: one engine stands for all ranks of its layers, whose speed is the same; what it keeps "
    "is the largest rank's"
)
FRONTIER = "*: nothing is better in speed, rank or fidelity, way of exchange and disk at once"


@dataclass(frozen=True)
class Point:
    """A cell as one card measured it."""

    cell: Cell
    row: CandidateResult

    @property
    def speed(self) -> float | None:
        """Against the full fine-tune's; what isn't measurably different is 1."""
        ratio = self.row.ratio
        if ratio is None:
            return None
        return 1.0 if ratio.verdict in ("same", "baseline") else ratio.value

    @property
    def keeps(self) -> float | None:
        """The share of the full fine-tune's effect, where that was measured."""
        return self.row.keeps

    @property
    def own_bytes(self) -> int | None:
        """What it adds to the disk beside `full`."""
        disk = self.row.probe.disk_bytes
        return None if disk is None else disk - (self.row.probe.shared_bytes or 0)

    @property
    def in_place(self) -> bool:
        """Whether its adapter is exchanged without loading an engine."""
        return self.cell.mode == "swappable"

    @property
    def exchange_s(self) -> float | None:
        """What taking another adapter takes: a swap, or loading another engine."""
        probe = self.row.probe
        return probe.swap_s if self.in_place else probe.cold_load_s or probe.warm_load_s

    def beats(self, other: Point) -> bool:
        """Tell whether it is as good as another in everything, and better in something.

        Ranks compare on the same layers alone; where fidelity was measured, that does on all.
        """
        if self.keeps is not None and other.keeps is not None:
            mine, theirs = self.keeps, other.keeps
        elif self.cell.targets == other.cell.targets:
            mine, theirs = float(self.cell.rank or 0), float(other.cell.rank or 0)
        else:
            return False
        pairs = [
            (mine, theirs),
            (self.speed or 0.0, other.speed or 0.0),
            (float(self.in_place), float(other.in_place)),
            (-float(self.own_bytes or 0), -float(other.own_bytes or 0)),
        ]
        return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


@dataclass(frozen=True)
class CardFindings:
    """What one card measured of a group of cells."""

    group: StudyGroup
    bench: BenchResult
    result: GroupResult
    finished: bool
    points: tuple[Point, ...]

    @property
    def card(self) -> str:
        """What measured."""
        return self.bench.machine.headline[0]

    @property
    def frontier(self) -> tuple[Point, ...]:
        """The points that no other beats, adapters only."""
        adapted = [p for p in self.points if p.cell.mode != "full" and p.speed is not None]
        return tuple(p for p in adapted if not any(other.beats(p) for other in adapted))

    @property
    def break_evens(self) -> list[BreakEven]:
        """When merging pays, by rank: the merged engine stands for every rank of its layers."""
        rows: list[CandidateResult] = []
        ranks = {(p.row.target_set, p.row.rank) for p in self.points if p.in_place}
        for row in self.result.candidates:
            alike = [rank for layers, rank in ranks if layers == row.target_set]
            merged = row.mode == "merged" and row.rival is None
            rows += (
                [replace(row, rank=rank) for rank in sorted(alike, key=str)] if merged else [row]
            )
        video = self.bench.video
        counted = video if video is not None and video.steps is not None else USUAL
        return break_evens(replace(self.result, candidates=tuple(rows)), counted)


def find_cards(study: Study, group: StudyGroup) -> Iterator[CardFindings]:
    """Yield what each card measured of a group."""
    for name in group.results:
        bench = study.benches[name]
        for result in bench.groups:
            rows = {
                Path(row.engine).name: row
                for row in result.candidates
                if not row.control and row.rival is None
            }
            points = tuple(
                Point(cell, rows[Path(cell.engine).name])
                for cell in group.cells
                if cell.engine is not None and Path(cell.engine).name in rows
            )
            finished = not Path(name).name.startswith(".")
            yield CardFindings(group, bench, result, finished, points)


def answer(found: CardFindings) -> str:
    """Return what each mode costs on a card, in one sentence."""
    parts = []
    for mode in ("merged", "separate", "swappable"):
        of_mode = [p for p in found.points if p.cell.mode == mode and p.row.ratio is not None]
        costs = [
            f"{_cost_range(points)}{_layers(targets)}"
            for targets, points in _by_targets(of_mode).items()
        ]
        if costs:
            parts.append(f"{mode} costs {', '.join(costs)}")
    random = any(p.row.random_weights for p in found.points)
    tail = " [random weights]" if random else ""
    if not parts:
        return f"On {found.card}: nothing was compared with the full fine-tune{tail}"
    return f"On {found.card}: {'; '.join(parts)}{tail}"


def failures(study: Study) -> list[str]:
    """Return a line per cell or bench that failed: its reason, and where more is said."""
    found = []
    for group in study.groups:
        for cell in group.cells:
            if cell.failed:
                found.append(f"{group.name} {cell.label}: {cell.failed}{_log(cell.log)}")
        if group.failed:
            found.append(f"bench of {group.name}: {group.failed}{_log(group.log)}")
    return found


def render_study(study: Study) -> str:
    """Return the answers, a table per group and card, estimates, and what failed."""
    blocks = []
    for group in study.groups:
        title = f"{study.study} · {group_title(group)}"
        cards = list(find_cards(study, group))
        for found in cards:
            lines = [*wrap(title), *wrap(answer(found), "    "), "", *_table(found)]
            lines += [] if found.finished else ["  not finished: wanexport study goes on with it"]
            blocks.append("\n".join(lines))
        if not cards:
            blocks.append("\n".join([*wrap(title), "  nothing was measured"]))
        blocks += ["\n".join(_estimate_lines(group, one)) for one in group.estimates]
    if broken := failures(study):
        blocks.append(
            "\n".join(line for text in broken for line in wrap(f"failed: {text}", "    "))
        )
    return "\n\n".join(blocks) + "\n"


def card_cells(found: CardFindings) -> list[tuple[str, ...]]:
    """Return a header and a row per point: speed, fidelity, disk, exchange, build."""
    frontier = found.frontier
    table = [
        (
            f"{'* ' if point in frontier else '  '}{name_cell(point.cell)}",
            *_speed(point),
            "-" if point.keeps is None else show_share(point.keeps),
            show_bytes(point.own_bytes),
            _seconds(point.exchange_s),
            _seconds(point.cell.build_s),
        )
        for point in found.points
    ]
    header = ("  engine", "x full", "95 %", "keeps", "own disk", "exchange", "build")
    rows = [header, *table]
    known = [n for n, cells in enumerate(zip(*table, strict=True)) if n == 0 or set(cells) != {"-"}]
    return [tuple(row[n] for n in known) for row in rows]


def estimate_rows(group: StudyGroup, estimate: Estimate) -> list[tuple[str, ...]]:
    """Return a header and a row per cell: the least forward on a device, and its ratio."""
    full = estimate.seconds[0]
    unit = pick(SECONDS, full)
    rows: list[tuple[str, ...]] = [("engine", "forward at best", "x full", "")]
    for cell, seconds, fits in zip(group.cells, estimate.seconds, estimate.fits, strict=True):
        speed = f"{full / seconds:.4f}" if seconds else "-"
        rows.append((name_cell(cell), show(seconds, unit), speed, "" if fits else "too large"))
    return rows


def name_cell(cell: Cell) -> str:
    """Return a cell's name in tables: mode, rank, and layers if they aren't the usual ones."""
    usual = cell.targets in (None, "cross-attention")
    rank = {"full": "", "merged": " any rank"}.get(cell.mode, f" r{cell.rank}")
    return f"{cell.mode}{rank}{'' if usual else f' {cell.targets}'}"


def _table(found: CardFindings) -> list[str]:
    lines = [line[2:] for line in columns(card_cells(found))] if found.points else []
    for one in found.break_evens:
        videos = one.videos(one.load_s)
        what = f"{one.swappable.label}: " if one.swappable else ""
        if videos is None:
            lines.append(f"  {what}merging never pays: nothing measurable is saved")
        else:
            lines.append(f"  {what}merging pays after {_number(videos)} videos with one adapter")
    notes = [MERGED] if any(p.cell.mode == "merged" for p in found.points) else []
    notes += [FRONTIER] if found.frontier else []
    return lines + [line for note in notes for line in wrap(note, "    ", first="  ")]


def _estimate_lines(group: StudyGroup, estimate: Estimate) -> list[str]:
    head = f"{estimate.device}, {estimate.dtype}: {BOUND}"
    return [*wrap(head, "  "), *columns(estimate_rows(group, estimate))]


def group_title(group: StudyGroup) -> str:
    """Return what its cells have in common."""
    scheme = [] if group.quantize == "none" else [group.quantize]
    return " · ".join([f"{group.model} {group.workload}", group.dtype, *scheme, group.backend])


def _by_targets(points: Sequence[Point]) -> dict[str | None, list[Point]]:
    found: dict[str | None, list[Point]] = {}
    for point in points:
        found.setdefault(point.cell.targets, []).append(point)
    return found


def _cost_range(points: Sequence[Point]) -> str:
    """Say what the smallest and the largest rank cost."""
    ranked = sorted(points, key=lambda p: p.cell.rank or 0)
    costs = [_cost(point) for point in ranked]
    if len(ranked) == 1 or ranked[0].cell.mode == "merged" or len(set(costs)) == 1:
        return costs[-1]
    return f"{costs[0]} (rank {ranked[0].cell.rank}) to {costs[-1]} (rank {ranked[-1].cell.rank})"


def _cost(point: Point) -> str:
    ratio = point.row.ratio
    assert ratio is not None
    if ratio.verdict == "unresolved":
        return "what can't be resolved"
    if ratio.verdict not in ("slower", "faster"):
        return "nothing measurable"
    return f"{100 * (1 - ratio.value):.1f} %"


def _layers(targets: str | None) -> str:
    if targets in (None, "cross-attention"):
        return ""
    return " on all linear layers" if targets == "all" else f" on {targets}"


def _speed(point: Point) -> tuple[str, str]:
    ratio, row = point.row.ratio, point.row
    if row.failed or row.skipped:
        return "failed" if row.failed else "skipped", "-"
    if ratio is None:
        return "-", "-"
    if ratio.verdict == "baseline":
        return "1", "-"
    value, low, high = show_interval(ratio)
    return value, "-" if ratio.low is None else f"{low} to {high}"


def _seconds(value: float | None) -> str:
    return "-" if value is None else show(value, pick(SECONDS, value))


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2g}"


def _log(log: str | None) -> str:
    return f" ({log})" if log else ""
