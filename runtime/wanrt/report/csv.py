"""A bench's result as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict
from pathlib import Path

from wanrt.results.result import BenchResult, CandidateResult, GroupResult
from wanrt.terminal.screen import visible

__all__ = ["plain_cell", "to_csv"]

FORMULA = ("=", "+", "-", "@")
CSV_FIELDS = (
    "model", "workload", "engine", "candidate", "mode", "rank", "dtype", "control", "rival",
    "random_weights", "verified", "scheme", "batch", "tokens", "n", "median_s", "mean_s",
    "stddev_s", "min_s", "max_s", "tokens_per_s", "flops_per_s", "predicted_s", "baseline", "ratio",
    "ratio_low", "ratio_high", "p", "verdict", "cold_load_s", "warm_load_s", "first_forward_s",
    "memory_bytes", "device_bytes", "disk_bytes", "shared_bytes", "context_s", "context_bytes",
    "swap_s", "skipped", "failed", "error", "keeps", "step_s", "video_s", "video_j",
)  # fmt: skip


def to_csv(result: BenchResult) -> str:
    """Return a line per candidate, seconds and bytes as plain numbers.

    A folder whose manifest can't be read has a line with nothing but that and the reason. Text
    that a spreadsheet would take for a formula has an apostrophe before it (OWASP, "CSV
    injection"), and what a terminal would obey is written as escapes: names come from files.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for group in result.groups:
        for row in group.candidates:
            writer.writerow(map(plain_cell, _csv_row(group, row)))
    for folder, reason in result.broken.items():
        known = {"engine": folder, "candidate": Path(folder).name, "failed": reason}
        writer.writerow([plain_cell(known.get(name)) for name in CSV_FIELDS])
    return text.getvalue()


def _csv_row(group: GroupResult, row: CandidateResult) -> list[object]:
    s, ratio = row.summary, row.ratio
    figures = [s.n, s.median, s.mean, s.stddev, s.min, s.max] if s else [None] * 6
    units = asdict(row.units).values() if row.units else [None] * 3
    compared: list[object] = [None] * 5
    if ratio:
        compared = [ratio.value, ratio.low, ratio.high, ratio.p, ratio.verdict]
    return [
        group.model, group.workload, row.engine, row.label, row.mode, row.rank, row.dtype,
        row.control, row.rival, row.random_weights, row.verified, row.scheme, row.batch, row.tokens,
        *figures, row.tokens_per_s, row.flops_per_s, row.predicted_s, row.baseline, *compared,
        *asdict(row.probe).values(), row.skipped, row.failed, row.error, row.keeps, *units,
    ]  # fmt: skip


def plain_cell(value: object) -> object:
    """Return a cell that no spreadsheet takes for a formula."""
    if not isinstance(value, str):
        return value
    shown = visible(value)
    return f"'{shown}" if shown.lstrip().startswith(FORMULA) else shown
