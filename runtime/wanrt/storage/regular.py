"""Regular files alone: a pipe waits for its writer, a device may never end, both say size 0."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

__all__ = ["JSON_BYTES", "TOML_BYTES", "check_regular", "read_regular", "read_regular_text"]

TOML_BYTES = 1 << 20
JSON_BYTES = 64 << 20

KINDS = {
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFDIR: "a folder",
}


def check_regular(path: Path) -> None:
    """Refuse what isn't a regular file before a library opens it, which might never return.

    Raises:
        OSError: it is a pipe, a device, a socket or a folder, or isn't there; `strerror` says so.
    """
    _check(path.stat().st_mode, path)


def read_regular(path: Path, at_most: int) -> bytes:
    """Return the bytes of a regular file, without ever waiting for one.

    Args:
        path: which file; links are followed.
        at_most: the size in bytes from which on it is refused unread.

    Raises:
        OSError: it can't be read, isn't a regular file, or is larger; `strerror` says so.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(descriptor)
        _check(status.st_mode, path)
        if status.st_size > at_most:
            why = f"it is larger than {at_most >> 20} MiB"
            raise OSError(errno.EFBIG, why, str(path))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(at_most + 1)  # /proc's files say size 0
    finally:
        os.close(descriptor)


def read_regular_text(path: Path, at_most: int) -> str:
    """Return the text of a regular file in UTF-8, as `read_regular` does.

    Raises:
        OSError: as there.
        UnicodeDecodeError: it isn't UTF-8; that is a ValueError.
    """
    return read_regular(path, at_most).decode("utf-8")


def _check(mode: int, path: Path) -> None:
    if not stat.S_ISREG(mode):
        kind = KINDS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"it is not a file but {kind}", str(path))
