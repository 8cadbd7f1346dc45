"""A bench's result as JSON, CSV and Markdown, and back; files appear whole or not at all."""

from __future__ import annotations

import csv
import io
import json
import os
import shlex
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from wanrt.errors import ResultsError
from wanrt.headline import headlines
from wanrt.report import COLUMNS, group_notes, shown_rows, table_rows, title
from wanrt.results import BenchResult, CandidateResult, GroupResult
from wanrt.strict_json import refuse_constant

__all__ = [
    "check_writable", "read_results", "to_csv", "to_json", "to_markdown", "write_file",
    "write_text",
]  # fmt: skip

RESULTS_SCHEMA = 3
READABLE = (2, 3)  # 3 added what a 2 may lack
FORWARD = ("load", "round", "seconds", "enqueue_s")
CSV_FIELDS = (
    "model", "workload", "engine", "candidate", "mode", "rank", "dtype", "control", "rival",
    "random_weights", "verified", "batch", "tokens", "n", "median_s", "mean_s", "stddev_s",
    "min_s", "max_s", "tokens_per_s", "flops_per_s", "predicted_s", "baseline", "ratio",
    "ratio_low", "ratio_high", "p", "verdict", "cold_load_s", "warm_load_s", "first_forward_s",
    "memory_bytes", "device_bytes", "disk_bytes", "shared_bytes", "skipped", "failed",
)  # fmt: skip


def to_json(result: BenchResult) -> str:
    """Return everything that was measured, all raw times included."""
    value = {
        "schema": RESULTS_SCHEMA,
        "context": {
            "started": result.started,
            "machine": asdict(result.machine),
            "options": result.options,
            "timed": result.timed,
            "device": result.device,
            "interrupted": result.interrupted,
            "warnings": [asdict(advice) for advice in result.advice],
        },
        "groups": [_json_group(group) for group in result.groups],
        "results": [_json_row(group, row) for group in result.groups for row in group.candidates],
        "broken": result.broken,
    }
    return json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def read_results(path: Path) -> BenchResult:
    """Read what `to_json` wrote.

    Raises:
        ResultsError: it can't be read, was cut short, is of another schema or no bench's at all.
    """
    hint = "wanrt bench --json FILE writes what can be read here"
    try:
        value = json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse_constant)
    except OSError as error:
        raise ResultsError(f"{path} can't be read: {error.strerror}", hint) from None
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is not JSON, or cut short: {error}", hint) from None
    schema = value.get("schema") if isinstance(value, dict) else None
    if schema not in READABLE:
        found = "no bench's results" if schema is None else f"of results schema {schema!r}"
        known = " and ".join(map(str, READABLE))
        raise ResultsError(f"{path} is {found}; this release reads {known}", hint)
    try:
        return _restore(value)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ResultsError(f"{path}: {where}: {first['msg']}", hint) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path} is no bench's results: {error}", hint) from None


def to_csv(result: BenchResult) -> str:
    """Return a line per candidate, seconds and bytes as plain numbers.

    A folder whose manifest can't be read has a line with nothing but that and the reason.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CSV_FIELDS)
    for group in result.groups:
        for row in group.candidates:
            writer.writerow(_csv_row(group, row))
    for folder, reason in result.broken.items():
        known = {"engine": folder, "candidate": Path(folder).name, "failed": reason}
        writer.writerow([known.get(name) for name in CSV_FIELDS])
    return text.getvalue()


def to_markdown(result: BenchResult) -> str:
    """Return the terminal's tables in Markdown, with the machine above them."""
    lines = [" · ".join(result.machine.headline), ""]
    for group in result.groups:
        lines += [title(group), "", _markdown_line((*COLUMNS[:-1], "weights"))]
        lines.append("|---|---|--:|--:|---|--:|---|")
        for row, candidate in zip(table_rows(group), shown_rows(group), strict=True):
            cells = list(row.cells[:-1])
            if row.reason and not cells[2]:
                cells[4] = row.reason
            lines.append(_markdown_line((*cells, _weights(candidate))))
        lines += ["", *(f"- {line}" for line in (*headlines(group), *group_notes(group))), ""]
    lines += [f"- failed: {reason}" for reason in result.broken.values()]
    return "\n".join(lines).rstrip() + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as `write_file` does."""
    write_file(path, text.encode())


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole: under a temporary name beside it, then renamed.

    What isn't a regular file (/dev/null, a pipe) is written to, not replaced.

    Raises:
        ResultsError: it can't be written.
    """
    check_writable(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            path.write_bytes(data)  # /dev/null, a pipe: not ours to replace
            return
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise ResultsError(f"{path} can't be written: {error.strerror}") from None
    finally:
        temporary.unlink(missing_ok=True)


def check_writable(path: Path) -> None:
    """Find out before the work whether its result could be written to a file.

    Raises:
        ResultsError: its folder is missing or can't be written to, or it is a folder itself.
    """
    folder = path.parent
    if not folder.is_dir():
        raise ResultsError(
            f"{path} can't be written: {folder} is no folder",
            f"mkdir -p {shlex.quote(str(folder))}",
        )
    if path.is_dir():
        raise ResultsError(f"{path} can't be written: it is a folder", "name a file in it")
    if not os.access(path if path.exists() and not path.is_file() else folder, os.W_OK):
        raise ResultsError(
            f"{path} can't be written: no permission to write in {folder}", "name another folder"
        )


def _restore(value: dict[str, Any]) -> BenchResult:
    rows = [dict(row) for row in value["results"]]
    for row in rows:
        measured = row.pop("forward_s") or {"loads": (), "rounds": (), "times": ()}
        enqueued = measured.get("enqueued") or [None] * len(measured["times"])
        columns = zip(*(measured[n] for n in ("loads", "rounds", "times")), enqueued, strict=True)
        row["forwards"] = [dict(zip(FORWARD, values, strict=True)) for values in columns]
        row["advice"] = row.pop("warnings")
    groups = [
        {**g, "candidates": [r for r in rows if (r["model"], r["workload"]) == _key(g)]}
        for g in value["groups"]
    ]
    context = dict(value["context"])
    context["advice"] = context.pop("warnings")
    found = {**context, "groups": groups, "broken": value["broken"]}
    result = TypeAdapter(BenchResult).validate_python(found)
    if any(not group.candidates for group in result.groups):
        raise ValueError("a group without candidates")
    if any(f.seconds < 0 for row in result.rows for f in row.forwards):
        raise ValueError("a forward of negative length")
    return result


def _key(group: dict[str, Any]) -> tuple[str, str]:
    return group["model"], group["workload"]


def _json_group(group: GroupResult) -> dict[str, object]:
    value = asdict(group)
    del value["candidates"]
    return value


def _json_row(group: GroupResult, row: CandidateResult) -> dict[str, object]:
    value = asdict(row)
    forwards = value.pop("forwards")
    advice = value.pop("advice")
    summary = row.summary
    measured = None
    if summary is not None:
        measured = {"typical": row.seconds, **asdict(summary), "cv": summary.cv}
        measured["times"] = [forward["seconds"] for forward in forwards]
        measured["loads"] = [forward["load"] for forward in forwards]
        measured["rounds"] = [forward["round"] for forward in forwards]
        enqueued = [forward["enqueue_s"] for forward in forwards]
        measured["enqueued"] = enqueued if any(s is not None for s in enqueued) else None
    return {
        "model": group.model,
        "workload": group.workload,
        **value,
        "forward_s": measured,
        "tokens_per_s": row.tokens_per_s,
        "flops_per_s": row.flops_per_s,
        "warnings": advice,
    }


def _csv_row(group: GroupResult, row: CandidateResult) -> list[object]:
    s, ratio = row.summary, row.ratio
    figures = [s.n, s.median, s.mean, s.stddev, s.min, s.max] if s else [None] * 6
    compared: list[object] = [None] * 5
    if ratio:
        compared = [ratio.value, ratio.low, ratio.high, ratio.p, ratio.verdict]
    return [
        group.model, group.workload, row.engine, row.label, row.mode, row.rank, row.dtype,
        row.control, row.rival, row.random_weights, row.verified, row.batch, row.tokens, *figures,
        row.tokens_per_s, row.flops_per_s, row.predicted_s, row.baseline, *compared,
        *asdict(row.probe).values(), row.skipped, row.failed,
    ]  # fmt: skip


def _weights(row: CandidateResult) -> str:
    kind = "random weights" if row.random_weights else "real"
    return kind if row.verified else f"{kind}, unverified"


def _markdown_line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
