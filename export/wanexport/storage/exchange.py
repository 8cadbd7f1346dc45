"""Two names in one folder exchanged in one step, where the kernel and the file system can."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

__all__ = ["exchange"]

AT_FDCWD = -100
RENAME_EXCHANGE = 2
CANNOT = {errno.EINVAL, errno.ENOSYS, errno.EXDEV}


def exchange(one: Path, other: Path) -> bool:
    """Exchange two names at once, so that no moment lacks either, and return whether it was done.

    Raises:
        OSError: for another reason than that it can't be done here.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if libc.renameat2(AT_FDCWD, names[0], AT_FDCWD, names[1], RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in CANNOT:
        return False
    raise OSError(code, os.strerror(code), str(one), None, str(other))
