"""What `wanexport study --dry-run` says: every cell, its bytes and about how long it takes."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from wanexport.study.cells import Group
from wanexport.study.file import Study
from wanexport.study.forecast import (
    Forecast,
    find_card,
    forecast_bench,
    forecast_build,
    forecast_sources,
)
from wanrt.terminal.text import columns, counted, wrap
from wanrt.terminal.units import show_bytes

__all__ = ["format_cells"]

NOTE = (
    "Minutes are rates of two cores of an AMD EPYC, good to a factor of two; a bench may take its "
    "whole time budget."
)
TENSORRT = "How long TensorRT's builder searches isn't counted, which can be hours at 14 B."
UNKNOWN = "Loads and forwards on the card that measures aren't counted: it isn't in devices.toml."


def format_cells(study: Study, groups: Sequence[Group], built: Collection[str]) -> tuple[str, int]:
    """Return the text, and the bytes that a run would write.

    Args:
        study: its file.
        groups: its cells.
        built: names of the cells that are there.
    """
    sources = Forecast(0, 0.0) if built else forecast_sources(study, groups)
    total, lines = sources, [_head(study, groups)]
    notes = [NOTE]
    for group in groups:
        device = find_card(study)
        rows = [("", "writes", "minutes", "")]
        for cell in group.cells:
            there = cell.name in built
            taken = Forecast(0, 0.0) if there else forecast_build(cell)
            total += taken
            rows.append((cell.label, *_show(taken), "built" if there else "to build"))
        bench = forecast_bench(study.bench, group, device)
        bench = Forecast(0, bench.seconds * study.bench.cards)
        total += bench
        of = counted(study.bench.cards, "card") if study.bench.cards > 1 else "one card"
        rows.append(("bench", *_show(bench), f"on {of}"))
        lines += ["", group.name, *columns(rows)]
        notes += [TENSORRT] if group.backend != "onnxruntime" else []
        notes += [UNKNOWN] if study.bench.device == "cuda" and device is None else []
    if sources.write_bytes:
        written, minutes = _show(sources)
        lines += ["", f"base and adapters: writes {written}, {minutes} minutes"]
    written, minutes = _show(total)
    lines += ["", f"in all: writes {written}, about {minutes} minutes"]
    lines += [line for note in dict.fromkeys(notes) for line in wrap(note, "  ", first="  ")]
    return "\n".join(lines), total.write_bytes


def _head(study: Study, groups: Sequence[Group]) -> str:
    engines = sum(len(group.cells) for group in groups)
    return f"{study.name}: {counted(engines, 'engine')} in {counted(len(groups), 'group')}"


def _show(taken: Forecast) -> tuple[str, str]:
    return show_bytes(taken.write_bytes) if taken.write_bytes else "-", f"{taken.seconds / 60:.1f}"
