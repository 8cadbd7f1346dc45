"""Files that appear whole or not at all.

A file is made under a hidden name beside its own, held by a lock that ends with its process; what a
killed process left there is removed by the next one that writes the same file.
"""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from wanrt.errors import ResultsError
from wanrt.storage.interrupt import uninterrupted
from wanrt.storage.regular import check_regular

__all__ = ["atomic_file", "atomic_path", "check_writable", "real_path", "sweep_temporaries",
           "temporary_name", "write_file", "write_text"]  # fmt: skip

ENGINE = "engine.json"  # what makes a folder an engine
TEMPORARY = r"\.{}\.\d+\.tmp"


def real_path(path: Path) -> Path:
    """Return an absolute path with links followed, as far as they lead: a loop raises nothing."""
    return Path(os.path.realpath(path))


def temporary_name(path: Path) -> Path:
    """Return the hidden name beside a path under which this process makes what shall be there."""
    return path.with_name(f".{_short_name(path)}.{os.getpid()}.tmp")


def _short_name(path: Path) -> str:
    """Return as much of a file's name as leaves room for more: none has more than 255 bytes."""
    return path.name.encode(errors="surrogateescape")[:200].decode(errors="ignore")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Name a temporary file beside `path` that takes its name on success and vanishes otherwise.

    The file is there already, empty: whoever writes it opens it, and doesn't put another in place.
    """
    sweep_temporaries(path.parent, path)
    temporary = temporary_name(path)
    with ExitStack() as stack:
        with uninterrupted():
            handle = _create_held(temporary)
            stack.callback(_discard, temporary, handle)
        yield temporary
        temporary.replace(path)


def _discard(temporary: Path, handle: int) -> None:
    with uninterrupted():
        temporary.unlink(missing_ok=True)
        os.close(handle)


def sweep_temporaries(folder: Path, of: Path | None = None) -> None:
    """Remove the half-written files of processes that are no more.

    Args:
        folder: where.
        of: which file they were to become; by default any.
    """
    pattern = re.compile(TEMPORARY.format(re.escape(_short_name(of)) if of else ".+"))
    with suppress(OSError):  # no such folder, or it can't be listed: then nothing is swept
        for path in folder.iterdir():
            if pattern.fullmatch(path.name):
                _remove_unheld(path)


def _remove_unheld(path: Path) -> None:
    with suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
        try:
            if _lock(handle, wait=False):
                path.unlink()
        finally:
            os.close(handle)


def _create_held(temporary: Path) -> int:
    """Create a file and lock it; another process's sweep may get between the two."""
    while True:
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
        _lock(handle, wait=True)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), temporary.stat()):
                return handle
        os.close(handle)


def _lock(handle: int, *, wait: bool) -> bool:
    """Lock a file if it can be; where there are no locks nothing is ever swept."""
    try:
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except (ImportError, OSError):
        return False
    return True


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


def check_writable(
    path: Path, inputs: Iterable[Path] = (), kind: bytes = b"", *, force: bool = False
) -> None:
    """Find out before the work whether its result may be written to a file.

    Args:
        path: which file.
        inputs: what the work reads.
        kind: how such results begin, a regular expression; by default like anything.
        force: whether a file of another kind makes way, too.

    Raises:
        ResultsError: its folder is missing, can't be written to or is an engine's; or what is
            there is no regular file, is one of the inputs, by whatever name, or of another kind.
    """
    folder = path.parent
    if not folder.is_dir():
        raise ResultsError(
            f"{path} can't be written: {folder} isn't a folder",
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
    if not force and path.exists() and os.access(path, os.R_OK):
        with path.open("rb") as file:
            start = file.read(256)
        if start and not re.match(kind, start, re.DOTALL):
            raise ResultsError(
                f"{path} can't be replaced: this command doesn't write such files",
                "replace it with --force, or name another file",
            )
    if not os.access(folder, os.W_OK):
        raise ResultsError(
            f"{path} can't be written: no permission to write in {folder}", "name another folder"
        )
