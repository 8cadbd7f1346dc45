"""TOML files of named tables that ship with wanrt, each table read as one model."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from wanrt.errors import UserError, WanrtError
from wanrt.storage.regular import TOML_BYTES, read_regular_text

__all__ = ["read_tables", "read_toml", "shipped_file"]

Model = TypeVar("Model", bound=BaseModel)


def shipped_file(name: str) -> Path:
    """Return a file of configs/, of a wheel or of a checkout."""
    packaged = Path(__file__).parents[1] / name
    return packaged if packaged.is_file() else Path(__file__).parents[3] / "configs" / name


def read_toml(path: Path, error: type[UserError]) -> dict[str, object]:
    """Return what a TOML file holds.

    Raises:
        UserError: of the kind `error`: it can't be read, or isn't TOML.
    """
    try:
        return tomllib.loads(read_regular_text(path, TOML_BYTES))
    except OSError as caught:
        raise error(f"{path} can't be read: {caught.strerror}") from None
    except (ValueError, RecursionError) as caught:  # TOMLDecodeError, UnicodeDecodeError
        raise error(f"{path} is not TOML: {caught}") from None


def read_tables(path: Path, model: type[Model], error: type[WanrtError]) -> dict[str, Model]:
    """Read a file's tables by name, in its order; each model has a field `name`.

    Raises:
        WanrtError: of the kind `error`: the file can't be read, isn't TOML, or a value is wrong.
    """
    raw = read_toml(path, error)
    return {name: _parse(name, table, path, model, error) for name, table in raw.items()}


def _parse(
    name: str, table: object, path: Path, model: type[Model], error: type[WanrtError]
) -> Model:
    if not isinstance(table, dict):
        raise error(f"{path}: {name}: is {table!r}; it should be a table")
    if "name" in table:
        raise error(f"{path}: {name}.name: unknown key", "the table's own name is the name")
    try:
        return model.model_validate({"name": name, **table})
    except ValidationError as caught:
        # a misspelt key is also a missing one; the misspelling says more
        unknown = ("extra_forbidden", "unexpected_keyword_argument")
        first = min(caught.errors(), key=lambda e: e["type"] not in unknown)
    place = ".".join([name, *(str(part) for part in first["loc"] if part != "[key]")])
    if first["type"] in unknown:
        known = ", ".join(key for key in model.model_fields if key != "name")
        raise error(f"{path}: {place}: unknown key", f"known: {known}" * (len(first["loc"]) == 1))
    if first["type"] == "missing":
        raise error(f"{path}: {place}: missing key")
    wanted = first["msg"].removeprefix("Input should be ")
    raise error(f"{path}: {place}: is {first['input']!r}; it should be {wanted}")
