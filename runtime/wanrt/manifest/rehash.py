"""An engine folder's files rehashed and compared with its manifest."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from wanrt.errors import ManifestError
from wanrt.manifest.copies import is_out_of_time, is_written_over
from wanrt.manifest.folder import BrokenFolder, OpenedFolder
from wanrt.manifest.read import MANIFEST_NAME, check_file
from wanrt.manifest.schema import WeightFile

__all__ = ["Finding", "verify_engine"]

CHUNK = 8 << 20


@dataclass(frozen=True)
class Finding:
    """One file's state: right, or a sentence that names the problem.

    `copied` says that its time alone is wrong, not its bytes.
    """

    file: str
    bytes: int
    problem: str | None = None
    copied: bool = False

    @property
    def ok(self) -> bool:
        """Whether the file is as recorded."""
        return self.problem is None


def verify_engine(
    folder: OpenedFolder,
    *,
    restore_mtime: bool = False,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> list[Finding]:
    """Check every file that a folder's manifest names, byte by byte.

    Args:
        folder: the engine folder, or one that couldn't be opened, which is what is found then.
        restore_mtime: where the bytes are right and only the modification time isn't, set the
            recorded one, also of a file that shares its bytes with others.
        on_bytes: called with the number of bytes just hashed.
    """
    if isinstance(folder, BrokenFolder):
        return [Finding(MANIFEST_NAME, 0, str(folder.error))]
    path = folder.path
    found = [Finding(MANIFEST_NAME, (path / MANIFEST_NAME).stat().st_size)]
    for part in folder.manifest.files:
        problem = _check_bytes(path, part.file, part.bytes, part.sha256, on_bytes)
        copied = False
        if problem is None and isinstance(part, WeightFile):
            problem = _check_time(path, part, restore_mtime)
            copied = problem is not None and not restore_mtime
        found.append(Finding(part.file, part.bytes, problem, copied))
    return found


def _check_bytes(
    folder: Path, file: str, size: int, sha256: str, on_bytes: Callable[[int], None]
) -> str | None:
    try:
        check_file(folder, file, size)
        digest = hashlib.sha256()
        with (folder / file).open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                on_bytes(len(chunk))
    except (ManifestError, OSError) as error:
        return str(error)
    if digest.hexdigest() == sha256:
        return None
    return f"{file}: its bytes are not the recorded ones (sha256)"


def _check_time(folder: Path, weights: WeightFile, restore: bool) -> str | None:
    """Say what is wrong with a file's time; a copy's is set, as loading it would."""
    if not is_out_of_time(folder, weights):
        return None
    problem = f"{weights.file}: its bytes are right, its mtime isn't"
    if is_written_over(folder, weights) and not restore:
        return problem
    path = folder / weights.file
    try:
        os.utime(path, ns=(path.stat().st_atime_ns, weights.mtime_ns))
    except OSError as error:
        return f"{problem}, and can't be set: {error.strerror}" if restore else None
    return None
