"""Keep other processes and threads out while something is made that must be made once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["locked"]


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file made for that; it ends with the process at the latest.

    Where the system or the file system knows no locks nobody is kept out, so what happens inside
    must be safe anyway: written aside and renamed.
    """
    with path.open("ab") as file:
        with contextlib.suppress(ImportError, OSError):
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
        yield
