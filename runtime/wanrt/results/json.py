"""A bench's result as JSON and back."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from wanrt.errors import ResultsError
from wanrt.results.result import BenchResult, CandidateResult, GroupResult
from wanrt.storage.regular import JSON_BYTES, read_regular_text
from wanrt.storage.strict_json import parse_json

__all__ = ["read_results", "to_json"]

RESULTS_SCHEMA = 3
READABLE = (2, 3)  # 3 added what a 2 may lack
FORWARD = ("load", "round", "seconds", "enqueue_s")


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
            "video": asdict(result.video) if result.video else None,
            "warnings": [asdict(advice) for advice in result.advice],
        },
        "groups": [_json_group(group) for group in result.groups],
        "results": [_json_row(group, row) for group in result.groups for row in group.candidates],
        "broken": result.broken,
    }
    return json.dumps(value, indent=1, allow_nan=False) + "\n"


def read_results(path: Path) -> BenchResult:
    """Read what `to_json` wrote.

    Raises:
        ResultsError: it can't be read, was cut short, is of another schema or no bench's at all.
    """
    hint = "wanrt bench --json FILE writes what can be read here"
    try:
        value = parse_json(read_regular_text(path, JSON_BYTES))
    except OSError as error:
        raise ResultsError(f"{path} can't be read: {error.strerror}", hint) from None
    except (ValueError, RecursionError) as error:
        raise ResultsError(f"{path} is not JSON, or cut short: {error}", hint) from None
    held = value if isinstance(value, dict) else {}
    if (schema := held.get("schema")) not in READABLE:
        found = "isn't a bench's results" if schema is None else f"is of results schema {schema!r}"
        known = " and ".join(map(str, READABLE))
        raise ResultsError(f"{path} {found}; this release reads schemas {known}", hint)
    try:
        return _restore(held)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ResultsError(f"{path}: {where}: {first['msg']}", hint) from None
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ResultsError(f"{path} isn't a bench's results: {error}", hint) from None


def _restore(value: dict[str, Any]) -> BenchResult:
    rows = [dict(row) for row in value["results"]]
    keys = [_key(group) for group in value["groups"]]
    if len(set(keys)) < len(keys):
        raise ValueError("a model and workload are there twice")
    if stray := next((row for row in rows if _key(row) not in keys), None):
        raise ValueError(f"a row of no group: {' '.join(map(repr, _key(stray)))}")
    for row in rows:
        measured = row.pop("forward_s") or {"loads": (), "rounds": (), "times": ()}
        enqueued = measured.get("enqueued") or [None] * len(measured["times"])
        columns = zip(*(measured[n] for n in ("loads", "rounds", "times")), enqueued, strict=True)
        row["forwards"] = [dict(zip(FORWARD, values, strict=True)) for values in columns]
        row["advice"] = row.pop("warnings")
    groups = [{**g, "candidates": [r for r in rows if _key(r) == _key(g)]} for g in value["groups"]]
    context = dict(value["context"])
    context["advice"] = context.pop("warnings")
    found = {**context, "groups": groups, "broken": value["broken"]}
    result = TypeAdapter(BenchResult).validate_python(found)
    if any(not group.candidates for group in result.groups):
        raise ValueError("a group without candidates")
    return result


def _key(group_or_row: dict[str, Any]) -> tuple[str, str]:
    return group_or_row["model"], group_or_row["workload"]


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
