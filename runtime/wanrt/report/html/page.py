"""A bench's result as one HTML file: no scripts, nothing fetched, light and dark."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path

from wanrt.errors import ResultsError
from wanrt.machine.nvml import Clocks
from wanrt.report.headline import (
    marks,
    sentences,
    show_interval,
    summary_lines,
)
from wanrt.report.html.merging import MERGING_COLUMNS, merging_note, merging_rows
from wanrt.report.html.plots import PLOTS, Plot, plots_of
from wanrt.report.html.style import COLORS, DARK, WIDE, styled, to_files
from wanrt.report.html.template import Drawing, draw_plot, load_template, page_css
from wanrt.report.table import group_notes, reason_of, title, warned_rows
from wanrt.report.videos import JOULES, show_error, video_notes
from wanrt.results.json import to_json
from wanrt.results.result import BenchResult, CandidateResult, GroupResult
from wanrt.results.values import Forward, Ratio
from wanrt.results.video import Video
from wanrt.storage.files import check_writable, write_file
from wanrt.terminal.screen import visible
from wanrt.terminal.units import BYTES, FLOPS, RATES, SECONDS, Unit, pick, show, show_share

__all__ = ["render_page", "save_plots"]

STARTS = {".svg": rb"<\?xml", ".png": rb"\x89PNG"}
LEADING = ("ratio", "rate")
CAPTIONS = {
    "ratio": "Points are estimates, bars their 95 % intervals; a hollow point has none. Within the "
    "controls' band nothing may be claimed.",
    "fidelity": "Fidelity: how much of the full fine-tune's effect the outputs keep, measured when "
    "the engine was built, on random inputs. Right and up is better.",
    "rate": "Batch x tokens / the median over loads of each load's median forward.",
    "rounds": "Of each candidate: its typical forward, and how far each round is from it. A "
    "triangle is a round beyond the panel.",
    "memory": "Peak of anonymous memory: mapped file pages don't count. Files shared with the full "
    "fine-tune's engine are on the disk once.",
    "prediction": "Dark: what the device allows at best, by its roofline; in per cent, how much "
    "of that was reached.",
    "bytes": "Not measured: read from TensorRT-RTX plans, every operand of a kernel counted once. "
    "A product that computes a layer and its adapter counts as the layer's.",
}
SELDOM = ("fidelity", "bytes")
"""Plots of what isn't measured by a bench; nobody misses them."""


@dataclass(frozen=True)
class Column:
    """A column of the page's table: numbers in one unit of `units`, or text where there is none."""

    name: str
    value: Callable[[CandidateResult], float | str | None]
    units: tuple[Unit, ...] = ()

    def cells(self, rows: Sequence[CandidateResult]) -> list[str]:
        """Return a text per row, empty where there is nothing to say."""
        values = [self.value(row) for row in rows]
        numbers = [value for value in values if isinstance(value, int | float)]
        if not numbers or not self.units:
            return ["" if value is None else f"{value}" for value in values]
        unit = pick(self.units, max(numbers) if self.units is BYTES else min(numbers))
        return [show(v, unit) if isinstance(v, int | float) else "" for v in values]


COLUMNS = (
    Column("forward", lambda row: row.seconds, SECONDS),
    Column("tokens/s", lambda row: row.tokens_per_s, RATES),
    Column("x full", lambda row: _ratio(row.ratio)),
    Column("95 % interval", lambda row: _interval(row.ratio)),
    Column("half-width", lambda row: _half_width(row.ratio)),
    Column("verdict", lambda row: _verdict(row.ratio)),
    Column("p", lambda row: _p(row.ratio)),
    Column("loads", lambda row: len({f.load for f in row.forwards}) or None),
    Column("forwards", lambda row: len(row.forwards) or None),
    Column("keeps", lambda row: None if row.keeps is None else show_share(row.keeps)),
    Column("predicted at best", lambda row: row.predicted_s, SECONDS),
    Column("speed", lambda row: row.flops_per_s, FLOPS),
    Column("memory", lambda row: row.probe.memory_bytes, BYTES),
    Column("device memory", lambda row: row.probe.device_bytes, BYTES),
    Column("disk", lambda row: row.probe.disk_bytes, BYTES),
    Column("shared with full", lambda row: row.probe.shared_bytes, BYTES),
    Column("cold load", lambda row: row.probe.cold_load_s, SECONDS),
    Column("warm load", lambda row: row.probe.warm_load_s, SECONDS),
    Column("first forward", lambda row: row.probe.first_forward_s, SECONDS),
    Column("swap", lambda row: row.probe.swap_s, SECONDS),
    Column("context, once per prompt", lambda row: row.probe.context_s, SECONDS),
    Column("step", lambda row: row.units.step_s if row.units else None, SECONDS),
    Column("video", lambda row: row.units.video_s if row.units else None, SECONDS),
    Column("energy of a video", lambda row: row.units.video_j if row.units else None, JOULES),
    Column("error", lambda row: None if show_error(row) == "-" else show_error(row)),
    Column("SM clock", lambda row: _clock(row.clocks)),
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """A candidate as the page's table and its raw numbers have it."""

    name: str
    kind: str
    marks: str
    cells: tuple[str, ...]
    reason: str
    forwards: tuple[Forward, ...]


def render_page(result: BenchResult, stem: str = "bench") -> str:
    """Return the page; `stem` names the JSON file that can be downloaded from it."""
    lines = summary_lines(result)
    encoded = base64.b64encode(to_json(result).encode()).decode()
    return load_template("page.html").render(
        result=result,
        title=f"{lines[0]} · wanrt" if len(lines) == 1 else "wanrt bench",
        lines=lines,
        sections=[_section(_named(g), n, result.video) for n, g in enumerate(result.groups)],
        facts=list(_facts(result)),
        merging_columns=MERGING_COLUMNS,
        merging_note=merging_note(result.video),
        stem=stem,
        download=f"data:application/json;base64,{encoded}",
        light=COLORS,
        dark=DARK,
        css=page_css(),
    )


def save_plots(result: BenchResult, folder: Path, *, force: bool = False) -> list[Path]:
    """Write every plot as SVG and PNG, named by model, workload and plot; return the paths.

    Raises:
        ResultsError: they can't be written, or files of another kind have a plot's name: those are
            replaced with `force` only.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResultsError(f"{folder} can't be made: {error.strerror}") from None
    stems = _stems(result.groups)
    plots = [
        (folder / f"{stem}-{plot.name}", plot) for stem, g in stems for plot in plots_of(_named(g))
    ]
    paths = {path: [Path(f"{path}{suffix}") for suffix in STARTS] for path, _ in plots}
    for path in (path for both in paths.values() for path in both):
        check_writable(path, kind=STARTS[path.suffix], force=force)
    for path, plot in plots:
        with styled(plot.name):
            files = to_files(plot.draw(WIDE))
        for target in paths[path]:
            write_file(target, files[target.suffix])
    return [path for both in paths.values() for path in both]


def _stems(groups: Sequence[GroupResult]) -> list[tuple[str, GroupResult]]:
    """Name groups for files, each by another name."""
    found: dict[str, GroupResult] = {}
    for group in groups:
        stem = re.sub(r"[^\w.-]+", "-", f"{group.model}-{group.workload}", flags=re.ASCII)[:200]
        unused = (f"{stem}-{n}" if n > 1 else stem for n in count(1))
        found[next(name for name in unused if name not in found)] = group
    return list(found.items())


def _named(group: GroupResult) -> GroupResult:
    """Return a group whose candidates' names can be drawn: what would be obeyed is written out."""
    rows = [replace(row, label=visible(row.label)) for row in group.candidates]
    return replace(group, candidates=tuple(rows))


def _section(group: GroupResult, number: int, video: Video | None) -> dict[str, object]:
    plots = plots_of(group)
    table = {column.name: column.cells(group.candidates) for column in COLUMNS}
    told = {name: cells for name, cells in table.items() if any(cells)}
    rows = [
        _row(row, group, tuple(cells[n] for cells in told.values()))
        for n, row in enumerate(group.candidates)
    ]
    warnings = [{"advice": advice, "names": who} for advice, who in warned_rows(group).items()]
    return {
        "id": f"group-{number}",
        "name": f"{group.model} {group.workload}",
        "title": title(group),
        "sentences": sentences(group),
        "drawings": [_draw(plot, number) for plot in plots],
        "absent": [
            title
            for name, title, *_ in PLOTS
            if name not in (*SELDOM, *(plot.name for plot in plots))
        ],
        "merging": merging_rows(group, video),
        "columns": ["candidate", *told],
        "rows": rows,
        "notes": [*group_notes(group), *_asked(group), *video_notes(video)],
        "warnings": warnings,
    }


def _row(row: CandidateResult, group: GroupResult, cells: tuple[str, ...]) -> Row:
    said = ", ".join(marks(row))
    kind = "rival" if row.rival else row.mode
    reason = reason_of(row) if row.failed or not row.forwards else ""
    return Row(group.row_name(row), kind, said, cells, reason, row.forwards)


def _draw(plot: Plot, number: int) -> Drawing:
    return draw_plot(plot, f"{number}", CAPTIONS[plot.name], leads=plot.name in LEADING)


def _facts(result: BenchResult) -> Iterator[tuple[str, str]]:
    yield "a forward is", result.timed or "-"
    if result.device is not None:
        yield "predictions are for", result.device
    for name, value in asdict(result.machine).items():
        if value is not None:
            shown = show(value, pick(BYTES, value)) if name == "memory_bytes" else f"{value}"
            yield name.removesuffix("_bytes").replace("_", " "), shown
    for name, value in result.options.items():
        if value is not None:
            yield f"--{name.removesuffix('_s').replace('_', '-')}", f"{value}"


def _ratio(ratio: Ratio | None) -> str | None:
    if ratio is None:
        return None
    return "1" if ratio.verdict == "baseline" else show_interval(ratio)[0]


def _interval(ratio: Ratio | None) -> str | None:
    if ratio is None or ratio.verdict == "baseline" or ratio.low is None or ratio.high is None:
        return None
    return "{1} to {2}".format(*show_interval(ratio))


def _half_width(ratio: Ratio | None) -> str | None:
    if ratio is None or ratio.verdict == "baseline" or ratio.low is None or ratio.high is None:
        return None
    return f"{50 * (ratio.high - ratio.low):.2g} %"


def _asked(group: GroupResult) -> list[str]:
    if group.half_width is None:
        return []
    return [f"asked for: intervals of a half-width of {100 * group.half_width:g} % at most"]


def _verdict(ratio: Ratio | None) -> str | None:
    if ratio is None:
        return None
    return "no measurable difference" if ratio.verdict == "same" else ratio.verdict


def _p(ratio: Ratio | None) -> str | None:
    return None if ratio is None or ratio.p is None else f"{ratio.p:.2g}"


def _clock(clocks: Clocks | None) -> str | None:
    if clocks is None:
        return None
    held = f", held down: {', '.join(clocks.throttled)}" if clocks.throttled else ""
    return f"{clocks.min_mhz} to {clocks.max_mhz} MHz{held}"
