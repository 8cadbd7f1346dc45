"""What `wanexport study` writes into study.json, and the benches that it names."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from wanrt.errors import ResultsError
from wanrt.manifest.fields import Positive
from wanrt.manifest.schema import Mode
from wanrt.results.json import read_results
from wanrt.results.result import BenchResult
from wanrt.results.values import Seconds
from wanrt.storage.regular import JSON_BYTES, read_regular_text
from wanrt.storage.strict_json import parse_json

__all__ = ["Cell", "Estimate", "Study", "StudyGroup", "is_study", "read_study"]

SCHEMA = 1
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Cell:
    """One engine: what it is, where, what building it took, or why it isn't there.

    `rank` and `targets` are its adapter's; `log` is the file that says more of `failed`.
    """

    label: Text
    mode: Mode
    rank: Positive | None
    targets: str | None
    engine: str | None
    build_s: Seconds | None
    failed: str | None
    log: str | None


@dataclass(frozen=True)
class Estimate:
    """The least seconds of a forward of each cell on a device; worked out, never measured.

    `fits` is whether the device's memory holds it.
    """

    device: Text
    dtype: Text
    fits: tuple[bool, ...]
    seconds: tuple[Seconds, ...]


@dataclass(frozen=True)
class StudyGroup:
    """Cells that were measured beside each other, and the files of what was measured.

    `failed` is why some of that is missing.
    """

    name: Text
    model: Text
    workload: Text
    dtype: Text
    backend: Text
    quantize: Text
    cells: Annotated[tuple[Cell, ...], Field(min_length=1)]
    results: tuple[Text, ...]
    failed: str | None
    log: str | None
    estimates: tuple[Estimate, ...]


@dataclass(frozen=True)
class Study:
    """A study, and its benches by the files that groups name."""

    study: Text
    request: dict[str, Any]
    extractions: tuple[str, ...]
    groups: tuple[StudyGroup, ...]
    benches: dict[str, BenchResult] = field(default_factory=dict)


def is_study(path: Path) -> bool:
    """Tell a study's record from a bench's results; what can't be read is neither."""
    try:
        value = parse_json(read_regular_text(path, JSON_BYTES))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and "study" in value


def read_study(path: Path) -> Study:
    """Read a study's record and the results that it names, which lie below its folder.

    Raises:
        ResultsError: one of them can't be read, or isn't what it should be.
    """
    value = parse_json(read_regular_text(path, JSON_BYTES))
    held = dict(value) if isinstance(value, dict) else {}
    if (schema := held.pop("schema", None)) != SCHEMA:
        raise ResultsError(
            f"{path} is of study schema {schema!r}; this release reads {SCHEMA}",
            "run wanexport study again",
        )
    try:
        found = TypeAdapter(Study).validate_python(held)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ResultsError(
            f"{path}: {where}: {first['msg']}", "run wanexport study again"
        ) from None
    names = [name for group in found.groups for name in group.results]
    benches = {name: read_results(path.parent / name) for name in names}
    return Study(found.study, found.request, found.extractions, found.groups, benches)
