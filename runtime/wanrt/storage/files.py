"""Files that appear whole or not at all."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from wanrt.errors import ResultsError

__all__ = ["check_writable", "write_file", "write_text"]


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
