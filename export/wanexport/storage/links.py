"""Put a file's bytes in a second place without copying them, or in a pool if that is impossible."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from wanrt.storage.files import atomic_file

__all__ = ["copy_file", "place_file", "pool_path"]

BLOCK_BYTES = 8 << 20
FICLONE = 0x40049409  # _IOW(0x94, 9, int), linux/fs.h
UNLINKABLE = {
    errno.EXDEV,  # another file system
    errno.EPERM,  # no hard links there, or another user's file (fs.protected_hardlinks)
    errno.EACCES,
    errno.EMLINK,
    errno.ENOSYS,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
}


def pool_path(pool: Path, digest: str, dtype: str = "") -> Path:
    """Return where a pool keeps a file of that hash, or what it holds cast to a dtype."""
    return pool / f"{digest}{'-' if dtype else ''}{dtype.lower()}.safetensors"


def place_file(
    source: Path, target: Path, *, clone: bool = True
) -> Literal["reflink", "hardlink"] | None:
    """Make `target` have the bytes of `source` without copying them, if the file system can.

    A reflink shares the blocks and keeps them when the source is written over in place; a hard
    link shares the file itself. Symbolic links of the source are followed, none is ever made.

    Args:
        source: whose bytes.
        target: where.
        clone: whether a reflink will do; of a hard link the source can count its users.

    Returns:
        How it was done, or None if neither works here; then there is no target.

    Raises:
        OSError: the source is missing, or the target exists or can't be made at all.
    """
    source = source.resolve(strict=True)
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
    if clone and _reflink(source, target):
        return "reflink"
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in UNLINKABLE:
            return None
        raise
    return "hardlink"


def copy_file(source: Path, target: Path, on_bytes: Callable[[int], None]) -> None:
    """Copy a file's bytes; `on_bytes` is called with the number of bytes just written."""
    buffer = memoryview(bytearray(BLOCK_BYTES))
    with source.open("rb", buffering=0) as original, target.open("wb") as copy:
        while count := original.readinto(buffer):
            copy.write(buffer[:count])
            on_bytes(count)


def _reflink(source: Path, target: Path) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl

    try:
        with source.open("rb") as original, atomic_file(target) as clone:
            fcntl.ioctl(clone.fileno(), FICLONE, original.fileno())
    except OSError:
        return False
    return True
