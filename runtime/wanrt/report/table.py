"""A bench's result as text: the terminal's table. Formats, computes nothing, prints nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from wanrt.report.contexts import context_lines
from wanrt.report.fidelity import fidelity_lines
from wanrt.report.headline import sentences, show_interval, summary_lines
from wanrt.report.videos import show_error, unit_lines, video_notes
from wanrt.results.result import BenchResult, CandidateResult, GroupResult
from wanrt.results.values import Advice, Ratio
from wanrt.terminal.text import WIDTH, counted, group_digits, wrap
from wanrt.terminal.units import BYTES, FLOPS, RATES, SECONDS, pick, shorten, show, show_bytes

__all__ = [
    "MARKS", "group_notes", "reason_of", "render_advice", "render_bench", "shown_rows", "signs",
    "table_rows", "title", "warned_rows",
]  # fmt: skip

COLUMNS = ("candidate", "dtype", "forward", "tok/s", "to full (95 %)", "memory", "")
HEADER = tuple("" if name == "dtype" else name for name in COLUMNS)
RIGHT = (False, False, True, True, False, True, False)
GAPS = ("  ", " ", " ", "  ", "  ", " ", " ")
RANKED = re.compile(r"\w+ r\d+(?= |$)")
LABEL_MIN, LABEL_MAX = 14, 20
MARKS = "R: random weights · U: unverified"


@dataclass(frozen=True)
class Row:
    """A candidate's cells, or its label, dtype and the reason why it has no others."""

    cells: tuple[str, ...]
    reason: str = ""


def render_bench(result: BenchResult, verbose: bool = False) -> str:
    """Return the answer, the machine, a table per model and workload, and what else they say."""
    blocks = ["\n".join(line for text in summary_lines(result) for line in _wrap(text))]
    blocks.append("\n".join(_wrap_items(result.machine.headline)))
    if result.timed:
        blocks[-1] += "\n" + "\n".join(_wrap(f"forward: {result.timed}"))
    for group in result.groups:
        blocks.append(_render_group(group, verbose))
        rows = shown_rows(group)
        tables = (f(group, rows) for f in (fidelity_lines, context_lines, unit_lines))
        blocks += ["\n".join(table) for table in tables if table]
    if notes := video_notes(result.video):
        blocks.append("\n".join(line for note in notes for line in _wrap(note)))
    if result.broken:
        lines = [_wrap(f"failed: {why}") for why in result.broken.values()]
        blocks.append("\n".join(line for wrapped in lines for line in wrapped))
    if result.interrupted:
        blocks.append("interrupted: only what was measured until then is shown")
    return "\n\n".join(blocks) + "\n"


def render_advice(result: BenchResult) -> str:
    """Return the warnings, each with its hint; empty if there are none."""
    lines = [_wrap(f"warning[{a.code}]: {a.text}") + _hint(a) for a in result.advice]
    for group in result.groups:
        where = f"{group.model} {group.workload}: " if len(result.groups) > 1 else ""
        for a, names in warned_rows(group).items():
            text = f"warning[{a.code}]: {where}{', '.join(names)}: {a.text}"
            lines.append(_wrap(text) + _hint(a))
    return "".join(f"{line}\n" for warning in lines for line in warning)


def warned_rows(group: GroupResult) -> dict[Advice, list[str]]:
    """Return each warning of a group once, with the names of the rows it is about."""
    told: dict[Advice, list[str]] = {}
    for row in group.candidates:
        for advice in row.advice:
            told.setdefault(advice, []).append(group.row_name(row))
    return told


def _hint(advice: Advice) -> list[str]:
    """Wrap a hint; what follows its first line is a command, to be copied as it is."""
    text, *commands = advice.hint.splitlines()
    return [
        *wrap(f"   hint: {text}", "    "),
        *(f"     {command}" for command in commands),
    ]


def shown_rows(group: GroupResult) -> list[CandidateResult]:
    """Return the rows of a table: an A/A is shown beside its baseline, a second build by itself."""
    told = {row.engine for row in group.candidates if not row.control}
    return [row for row in group.candidates if not row.control or row.engine not in told]


def table_rows(group: GroupResult) -> list[Row]:
    """Return the table's cells, each column in one unit."""
    rows = shown_rows(group)
    seconds = [row.seconds for row in rows if row.seconds]
    rates = [row.tokens_per_s for row in rows if row.tokens_per_s]
    sizes = [row.probe.memory_bytes for row in rows if row.probe.memory_bytes is not None]
    time_unit = pick(SECONDS, min(seconds, default=1.0))
    rate_unit = pick(RATES, min(rates, default=1.0))
    byte_unit = pick(BYTES, max(sizes, default=0))
    found = []
    for row in rows:
        name = (row.label, row.dtype)
        if row.seconds is None or row.tokens_per_s is None:
            found.append(Row((*name, "", "", "", "", signs(row)), reason_of(row)))
            continue
        cells = (
            *name,
            show(row.seconds, time_unit),
            show(row.tokens_per_s, rate_unit),
            _ratio(row.ratio, _control(row, group)),
            show_bytes(row.probe.memory_bytes, byte_unit),
            signs(row),
        )
        found.append(Row(cells, reason_of(row) if row.failed else ""))
    return found


def title(group: GroupResult) -> str:
    """Return the line above a table: what all its rows share."""
    first = group.candidates[0]
    batch = f"{first.batch} x " if first.batch > 1 else ""
    tokens = group_digits(first.tokens)
    items = [group.model, group.workload, f"{batch}{tokens} tokens per forward"]
    if all(row.random_weights for row in group.candidates):
        items.append("random weights")
    elif any(row.random_weights for row in group.candidates):
        items.append("some random weights")
    schemes = {row.scheme for row in group.candidates}
    if len(schemes) == 1 and None not in schemes:
        items.append(f"base: {first.scheme}")
    return " · ".join(items)


def _render_group(group: GroupResult, verbose: bool) -> str:
    rows = _fit_labels(table_rows(group))
    widths = _widths([row.cells for row in rows])
    lines = [*_wrap(title(group)), "", _line(HEADER, widths)]
    for row, candidate in zip(rows, shown_rows(group), strict=True):
        lines += _table_lines(row, widths)
        if verbose and candidate.summary is not None:
            lines += _detail(candidate)
    marks = [part for part in MARKS.split(" · ") if any(part[0] in r.cells[-1] for r in rows)]
    if marks:
        lines.append("  " + " · ".join(marks))
    notes = [*sentences(group)[1:], *group_notes(group)]
    if notes:
        lines += ["", *(line for note in notes for line in _wrap(note))]
    return "\n".join(lines)


def _fit_labels(rows: Sequence[Row]) -> list[Row]:
    """Shorten what labels have besides mode and rank to what the page leaves them."""
    widths = _widths([row.cells for row in rows])
    others = sum(widths[1:]) + sum(map(len, GAPS))
    limit = min(LABEL_MAX, max(LABEL_MIN, WIDTH - others))
    labels = (_fit(row.cells[0], limit) for row in rows)
    return [
        replace(row, cells=(label, *row.cells[1:])) for row, label in zip(rows, labels, strict=True)
    ]


def _fit(label: str, limit: int) -> str:
    """Shorten a label, but never its mode and rank."""
    found = RANKED.match(label)
    if found is None or len(label) <= limit:
        return shorten(label, limit)
    left = limit - len(found[0]) - 1
    if left > 2:
        return f"{found[0]} {shorten(label[found.end() + 1 :], left)}"
    return found[0] + "…" * (left >= 0)


def group_notes(group: GroupResult) -> list[str]:
    """Return what a reader of a group's figures must know."""
    notes = list(group.notes)
    for row in group.candidates:
        if row.baseline_dtype not in (None, row.dtype):
            notes.append(f"{row.label} {row.dtype} is compared with full {row.baseline_dtype}")
    engines = [row for row in group.candidates if row.mode == "full" and row.rival is None]
    full = [row for row in engines if row.forwards]
    if full and not any(row.full_finetune for row in full):
        notes.append("full carries the base's own weights; a fine-tune's run at the same speed")
    schemes = dict.fromkeys(row.scheme for row in shown_rows(group))
    for scheme in schemes if len(schemes) > 1 else ():
        names = ", ".join(group.row_name(r) for r in shown_rows(group) if r.scheme == scheme)
        notes.append(f"base: {scheme or 'not quantised'}, of {names}")
    return [*notes, *_resolution(group)]


def _resolution(group: GroupResult) -> list[str]:
    """Say how much was measured, and how narrow the intervals came out."""
    loads = max((len({f.load for f in row.forwards}) for row in shown_rows(group)), default=0)
    if not loads:
        return []
    each = f"{group.rounds} rounds of 2 forwards" if group.rounds > 1 else "2 forwards"
    text = f"{counted(loads, 'load')} of every engine, {each} each"
    widths = [
        (row.ratio.high - row.ratio.low) / 2
        for row in shown_rows(group)
        if row.ratio
        and row.ratio.low is not None
        and row.ratio.high is not None
        and row.ratio.verdict != "baseline"
    ]
    if widths:
        reached = f"{min(widths):.2%}"
        if f"{max(widths):.2%}" != reached:
            reached += f" to {max(widths):.2%}"
        text += f"; half-width of the intervals {reached}"
    return [text]


def _table_lines(row: Row, widths: Sequence[int]) -> list[str]:
    if not row.reason:
        return [_line(row.cells, widths)]
    if row.cells[2]:
        return [_line(row.cells, widths), *_wrap(f"      {row.reason}")]
    left = _line(row.cells[:2], widths[:2])
    indent = " " * (len("  ") + widths[0] + 1 + widths[1] + 2)
    mark = f" [{row.cells[-1]}]" if row.cells[-1] else ""
    return wrap(row.reason + mark, indent, first=left.ljust(len(indent)))


def _detail(row: CandidateResult) -> list[str]:
    s = row.summary
    if s is None or row.flops_per_s is None:
        return []
    unit = pick(SECONDS, s.min)
    parts = [f"n {s.n}", f"min {show(s.min, unit)}", f"max {show(s.max, unit)}"]
    if s.p95 is not None:
        parts.append(f"p95 {show(s.p95, unit)}")
    parts.append(f"CV {s.cv:.1%}")
    parts.append(show(row.flops_per_s, pick(FLOPS, row.flops_per_s)))
    indent = " " * 6
    text = indent + " · ".join(parts)
    error = show_error(row)
    known = [f"{indent}error {error}, by its manifest"] if row.error is not None else []
    return wrap(text, indent) + known


def _control(row: CandidateResult, group: GroupResult) -> Ratio | None:
    """Return what a baseline's second load came to."""
    controls = (r for r in group.candidates if r.control and r.engine == row.engine)
    return next((control.ratio for control in controls), None)


def _ratio(ratio: Ratio | None, control: Ratio | None = None) -> str:
    if ratio is None:
        return "-"
    if ratio.verdict == "baseline":
        if control is None or control.low is None:
            return "1"
        _, low, high = show_interval(control)
        return f"1 (A/A {low} to {high})"
    if ratio.verdict == "same":
        return "no measurable difference"
    if ratio.low is None or ratio.high is None:
        return f"{ratio.value:.3f} (one load)"
    value, low, high = show_interval(ratio)
    return f"{value} ({low} to {high})"


def reason_of(row: CandidateResult) -> str:
    """Return why a row has no figures, or not all of them."""
    if row.failed:
        return f"failed: {row.failed}"
    return f"skipped: {row.skipped}" if row.skipped else "not measured"


def signs(row: CandidateResult) -> str:
    """Return a row's marks as letters, which `MARKS` explains."""
    return ("R" if row.random_weights else "") + ("" if row.verified else "U")


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(cell) for cell in column) for column in zip(HEADER, *rows, strict=True)]


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    parts = [
        gap + (cell.rjust(width) if right else cell.ljust(width))
        for gap, cell, width, right in zip(GAPS, cells, widths, RIGHT, strict=False)
    ]
    return "".join(parts).rstrip()


def _wrap(text: str) -> list[str]:
    together = text.replace("random weights", "random\N{NO-BREAK SPACE}weights")
    return wrap(together, "    ")


def _wrap_items(items: Sequence[str]) -> list[str]:
    lines = [items[0]]
    for item in items[1:]:
        if len(lines[-1]) + len(item) + 3 <= WIDTH:
            lines[-1] += f" · {item}"
        else:
            lines.append(item)
    return lines
