"""TOML that people write: read, found by a shipped name, and checked with words that help."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from wanexport.errors import ConfigError
from wanrt.storage.tables import read_toml

__all__ = ["check_values", "find_file", "nearest", "read_values"]

Model = TypeVar("Model", bound=BaseModel)
Tables = Mapping[str, type[BaseModel]]
"""The models of a file's tables, by their key."""


def find_file(name_or_file: str, what: str, folder: Path, shipped: Sequence[str]) -> Path:
    """Return the file that a shipped name or a path means.

    Raises:
        ConfigError: it is neither a file nor a name; the nearest name is given.
    """
    path = Path(name_or_file)
    if path.suffix == ".toml" or path.is_file():
        return path
    if name_or_file not in shipped:
        raise ConfigError(
            f"there is no {what} {name_or_file!r}",
            nearest(name_or_file, shipped) or f"shipped: {', '.join(shipped)}",
        )
    return folder / f"{name_or_file}.toml"


def read_values(path: Path) -> dict[str, object]:
    """Return the values of a TOML file.

    Raises:
        ConfigError: it can't be read, or isn't TOML.
    """
    return read_toml(path, ConfigError)


def check_values(
    model: type[Model],
    raw: Mapping[str, object],
    where: str,
    tables: Tables,
    flags: Mapping[str, str] | None = None,
) -> Model:
    """Return values as a model.

    Args:
        model: the file's.
        raw: the values.
        where: names their file in errors.
        tables: the models of its tables.
        flags: key -> the flag that its value came from; errors name that instead.

    Raises:
        ConfigError: a value can't be; it names the key, and what is allowed there.
    """
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        # a misspelt key is also a missing one; the misspelling says more
        first = min(error.errors(), key=lambda one: one["type"] != "extra_forbidden")
    key = ".".join(str(part) for part in first["loc"])
    place = (flags or {}).get(key) or f"{where}: {key}".removesuffix(": ")
    message, hint = _explain(first, model, tables)
    raise ConfigError(f"{place}: {message}", hint) from None


def nearest(word: str, known: Sequence[str]) -> str:
    """Return `did you mean ...?` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, known, n=1)
    return f"did you mean {near[0]!r}?" if near else ""


def _explain(error: ErrorDetails, model: type[BaseModel], tables: Tables) -> tuple[str, str]:
    """Return what is wrong with one value, and what to do about it."""
    kind, value, loc = error["type"], error["input"], error["loc"]
    if kind == "extra_forbidden":
        names = [part for part in loc[:-1] if isinstance(part, str)]
        known = list((tables[names[-1]] if names else model).model_fields)
        return "unknown key", nearest(str(loc[-1]), known) or f"known: {', '.join(known)}"
    if kind == "missing":
        return "missing key", ""
    if kind == "value_error":
        return error["msg"].removeprefix("Value error, "), ""
    if kind == "literal_error":
        allowed = error["ctx"]["expected"]
        near = nearest(value, re.findall(r"'([^']+)'", allowed)) if isinstance(value, str) else ""
        return f"is {value!r}; it should be {allowed}", near
    if kind.startswith("model_"):
        return f"is {value!r}; it should be a table", ""
    if kind.startswith(("tuple_", "list_")) and "too_" not in kind:
        of_tables = " of tables" if loc and loc[-1] in tables else ""
        return f"is {value!r}; it should be a list{of_tables}", ""
    if kind == "string_pattern_mismatch":
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("-._")
        return f"is {value!r}; it becomes part of a folder's name", slug and f"try {slug!r}"
    wanted = error["msg"].removeprefix("Input should be ").removeprefix("String should ")
    return f"is {value!r}; it should be {wanted}", _as_number(value) if kind == "int_type" else ""


def _as_number(value: object) -> str:
    """Return the hint for a whole number that was written as something else."""
    if isinstance(value, str) and value.strip().isdigit():
        return f"without quotes: {int(value)}"
    if isinstance(value, float) and value.is_integer():
        return f"without a decimal point: {int(value)}"
    return ""
