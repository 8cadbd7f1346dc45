"""The two commands run in this process, and configuration files for them."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, NoReturn

from wanexport.cli.main import main as wanexport_main
from wanexport.model.config import Config
from wanrt.cli.main import main as wanrt_main


class Outcome(NamedTuple):
    """A finished command."""

    code: int
    out: str
    err: str


def wanexport(*argv: object) -> Outcome:
    return _run(wanexport_main, argv)


def wanrt(*argv: object) -> Outcome:
    return _run(wanrt_main, argv)


def _run(main: Callable[[list[str]], NoReturn], argv: tuple[object, ...]) -> Outcome:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main([str(arg) for arg in argv])
        except SystemExit as stop:
            return Outcome(int(stop.code or 0), out.getvalue(), err.getvalue())


def write_config(path: Path, config: Config) -> Path:
    """Write a configuration as the TOML that reads back the same."""
    lines = []
    tables = config.model_dump(mode="json", exclude_none=True)
    for key in ("name", "dtype"):
        lines.append(f"{key} = {json.dumps(tables.pop(key))}")
    for other in tables.pop("dynamic_sizes"):
        lines += ["[[dynamic_sizes]]", *(f"{k} = {json.dumps(v)}" for k, v in other.items())]
    for key, table in tables.items():
        lines += [f"[{key}]", *(f"{k} = {json.dumps(v)}" for k, v in table.items())]
    path.write_text("\n".join(lines) + "\n")
    return path
