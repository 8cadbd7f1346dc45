"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from wanrt.errors import ResultsError
from wanrt.storage.regular import check_regular

__all__ = ["atomic_file", "atomic_path", "check_writable", "real_path", "temporary_name",
           "write_file", "write_text"]  # fmt: skip

ENGINE = "engine.json"  # what makes a folder an engine


def real_path(path: Path) -> Path:
    """Return an absolute path with links followed, as far as they lead: a loop raises nothing."""
    return Path(os.path.realpath(path))


def temporary_name(path: Path) -> Path:
    """Return the hidden name beside a path under which this process makes what shall be there."""
    name = path.name.encode(errors="surrogateescape")[:200].decode(errors="ignore")
    return path.with_name(f".{name}.{os.getpid()}.tmp")  # no name has more than 255 bytes


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Name a temporary file beside `path` that takes its name on success and vanishes otherwise."""
    temporary = temporary_name(path)
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_file(path: Path) -> Iterator[IO[bytes]]:
    """Open a temporary file beside `path` that takes its name on success and vanishes otherwise."""
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        yield file


def write_text(path: Path, text: str) -> None:
    """Write a text file whole, as `write_file` does."""
    write_file(path, text.encode())


def write_file(path: Path, data: bytes) -> None:
    """Write a file whole: under a temporary name beside it, then renamed.

    Raises:
        ResultsError: it can't be written, or may not be: see `check_writable`.
    """
    check_writable(path)
    try:
        with atomic_file(path) as file:
            file.write(data)
    except OSError as error:
        raise ResultsError(f"{path} can't be written: {error.strerror}") from None


def check_writable(path: Path, inputs: Iterable[Path] = (), kind: bytes = b"") -> None:
    """Find out before the work whether its result may be written to a file.

    Raises:
        ResultsError: its folder is missing, can't be written to or is an engine's; or what is
            there is no regular file, is one of the inputs, by whatever name, or doesn't begin with
            `kind`, a regular expression.
    """
    folder = path.parent
    if not folder.is_dir():
        raise ResultsError(
            f"{path} can't be written: {folder} is no folder",
            f"mkdir -p {shlex.quote(str(folder))}",
        )
    if path.is_dir():
        raise ResultsError(f"{path} can't be written: it is a folder", "name a file in it")
    if path.is_symlink():
        raise ResultsError(f"{path} can't be replaced: it is a link", "name another file")
    if path.exists():
        try:
            check_regular(path)
        except OSError as error:
            why = error.strerror
            raise ResultsError(f"{path} can't be replaced: {why}", "name another file") from None
    if any((parent / ENGINE).exists() for parent in real_path(path).parents):
        raise ResultsError(
            f"{path} can't be written: it would be inside an engine folder", "name another folder"
        )
    if path.exists() and any(given.exists() and path.samefile(given) for given in inputs):
        raise ResultsError(f"{path} can't be replaced: it is an input", "name another file")
    if path.exists() and os.access(path, os.R_OK):
        with path.open("rb") as file:
            start = file.read(256)
        if start and not re.match(kind, start, re.DOTALL):
            raise ResultsError(
                f"{path} can't be replaced: this command doesn't write such files",
                "move it away, or name another file",
            )
    if not os.access(folder, os.W_OK):
        raise ResultsError(
            f"{path} can't be written: no permission to write in {folder}", "name another folder"
        )
