"""Whether a build can write its output: place and free space."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from wanexport.errors import BuildError
from wanrt.storage.files import real_path
from wanrt.terminal.units import show_bytes

__all__ = ["check_disk", "check_out"]


def check_out(out: Path) -> None:
    """Refuse an output folder that can't be created or written to.

    Raises:
        BuildError: it, or something above it, is a file, or nothing can be written there.
    """
    nearest = next(path for path in (out, *real_path(out).parents) if path.exists())
    if not nearest.is_dir():
        raise BuildError(f"{nearest} is not a folder", "choose another --out")
    stores = shutil.disk_usage(nearest).total > 0  # /proc and the like have no room at all
    if not stores or not os.access(nearest, os.W_OK | os.X_OK):
        raise BuildError(f"{out} can't be written", "choose another --out")


def check_disk(out: Path, needed: int) -> None:
    """Refuse a build that needs more disk space than is free.

    Raises:
        BuildError: the disk has less room than the build writes.
    """
    folder = real_path(out)
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise BuildError(
            f"the build writes {show_bytes(needed)}, but {folder} has {show_bytes(free)} free",
            "free disk space, or use --out on a larger disk",
        )
