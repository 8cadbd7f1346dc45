"""The command line as engine.json records it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

__all__ = ["record_command"]


def record_command(argv: Sequence[str]) -> tuple[str, ...]:
    """Return a command's arguments, paths within this folder relative to it.

    Whoever runs them again does so from here, and the path of a home folder is nobody's business.
    """
    here = Path.cwd()
    return tuple(_record(argument, here) for argument in argv)


def _record(argument: str, here: Path) -> str:
    flag, equals, value = argument.partition("=")
    if argument.startswith("--") and equals:
        return f"{flag}={_record(value, here)}"
    path = Path(argument)
    return str(path.relative_to(here)) if path.is_relative_to(here) else argument
