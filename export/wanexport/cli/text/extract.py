"""What `wanexport extract` and `resize` print."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.extraction.report import ExtractReport, ModuleReport
from wanrt.terminal.text import columns, counted, first_and_more, wrap
from wanrt.terminal.units import show_bytes

__all__ = ["format_report", "format_resized"]

if TYPE_CHECKING:  # whose module imports torch
    from wanexport.extraction.resize import ResizeReport

WORST = 3  # modules
Row = tuple[str, ...]


def format_report(report: ExtractReport, out: Path) -> str:
    """Return a line per rank, the modules that keep least, and what no file holds."""
    first, last = report.files[0].rank, report.files[-1].rank
    kept = [one for one in report.modules if one.energy]
    rows: list[Row] = [("rank", "captured", "of all", "worst module", "size", "file")]
    for file in report.files:
        least = min(one.captured[file.rank] for one in kept)
        shares = map(_share, (file.captured, file.captured_of_all, least))
        rows.append((str(file.rank), *shares, show_bytes(file.bytes), file.file))
    moved = f"{counted(len(kept), 'module')} of {report.targets}, {report.dtype}"
    random = ", random weights" if report.random_weights else ""
    lines = [
        *wrap(f"{moved}{random}, in {out}", "   ", whole_words=True),
        "",
        *columns(rows),
        "",
        *columns(_worst(kept, first, last)),
        "",
        *_outside(report),
    ]
    for note in report.notes:
        lines += wrap(f"note: {note}", "   ", whole_words=True)
    lines += wrap(
        "captured: the share of the targets' change, in squares, that a file holds; of all: of the "
        "whole fine-tune's. above noise: how "
        "many ranks stand out of what rounding to the checkpoints' dtype adds"
    )
    return "\n".join(lines)


def format_resized(report: ResizeReport) -> str:
    """Return what is left of the whole, the modules that keep least, and what stayed as it was."""
    modules = counted(len(report.captured), "module")
    worst = sorted(report.captured.items(), key=lambda item: item[1])[:WORST]
    rows: list[Row] = [("worst modules", f"r{report.rank}")]
    rows += [(module, _share(share)) for module, share in worst]
    lines = [f"captured {_share(report.total)} of {modules}, {report.dtype}", *columns(rows)]
    if report.kept:
        lines += wrap(f"kept as they are: {first_and_more(report.kept)}", "   ")
    lines.append(f"saved {report.file}")
    return "\n".join(lines)


def _share(share: float) -> str:
    """Return a share in percent; what isn't whole is never shown as 100 %."""
    text = f"{100 * share:.2f} %"
    return "99.99+ %" if text == "100.00 %" and share < 1 - 1e-6 else text


def _worst(modules: Sequence[ModuleReport], first: int, last: int) -> list[Row]:
    """Return the rows of the modules of which the largest rank holds least."""
    ranks = [f"r{rank}" for rank in dict.fromkeys((first, last))]
    rows: list[Row] = [("worst modules", *ranks, "change", "unchanged", "above noise")]
    for one in sorted(modules, key=lambda one: one.captured[last])[:WORST]:
        shares = [_share(one.captured[rank]) for rank in dict.fromkeys((first, last))]
        above = "-" if one.above_noise is None else _count_above(one, last)
        rows.append(
            (one.module, *shares, f"{100 * one.change:.2f} %", _share(one.unchanged), above)
        )
    return rows


def _count_above(one: ModuleReport, last: int) -> str:
    """Return how many ranks stand out of rounding; of those beyond the largest nothing is known."""
    assert one.above_noise is not None
    most = min(last, *one.shape)
    return f">= {most}" if one.above_noise >= most else str(one.above_noise)


def _outside(report: ExtractReport) -> list[str]:
    """Return what the fine-tune changed outside of the targets."""
    changed = [group for group in report.outside if group.changed]
    if not changed:
        return ["outside of the targets nothing changed"]
    lines = wrap(
        f"outside of the targets: {_share(report.outside_share)} of the change, which no file holds"
    )
    rows = [
        (one.group, _share(one.share), f"{one.changed} of {one.parameters} changed")
        for one in sorted(changed, key=lambda one: -one.energy)
    ]
    return [*lines, *columns(rows), ""]
