"""Engine folders that were copied: the right bytes, at another time than the recorded one.

`cp -r`, rsync without -t, a zip and GNU tar across machines set the times of files. What was
copied shares its bytes with no other file, so they are rehashed once and can be trusted again.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from wanrt.errors import ManifestError
from wanrt.manifest.schema import Manifest, WeightFile
from wanrt.terminal.progress import Reporter

__all__ = ["LINKED", "accept_copies", "is_out_of_time", "is_written_over"]

log = logging.getLogger(__name__)

LINKED = ("hardlink", "pool", "own")
CHUNK = 8 << 20

_Identity = tuple[int, int, int, int]
_accepted: set[_Identity] = set()
"""Copies whose bytes this process has compared, where their times can't be set."""


def accept_copies(folder: Path, manifest: Manifest, reporter: Reporter | None = None) -> None:
    """Check that linked weights are what they were when the engine was made.

    A linked file has the recorded time unless somebody wrote over its bytes, or it was copied. If
    it has one link, its bytes are compared once, and right ones get the recorded time. Where that
    can't be set (a read-only disk) they are compared again by every process, with a warning.
    Copies and reflinks can't be written over through a checkpoint; only their sizes are compared.

    Args:
        folder: the engine folder, whose files have the recorded sizes.
        manifest: its engine.json.
        reporter: receives progress; silent by default.

    Raises:
        ManifestError: a file was written over, or shares its bytes with others and may have been.
    """
    late = [file for file in manifest.weights if is_out_of_time(folder, file)]
    for file in late:
        if is_written_over(folder, file):
            raise ManifestError(
                f"{folder / file.file}: its mtime isn't the recorded one, and it shares its bytes "
                "with other files: somebody wrote over them, or all were copied together",
                f"compare the bytes: wanrt verify {folder} --restore-mtime; "
                "if they differ, rebuild with --force",
            )
    copied = [file for file in late if _identify(folder / file.file) not in _accepted]
    if copied:
        _rehash(folder, copied, reporter or Reporter(quiet=True))


def is_out_of_time(folder: Path, file: WeightFile) -> bool:
    """Tell whether a linked weight file has another modification time than the recorded one."""
    return file.storage in LINKED and (folder / file.file).stat().st_mtime_ns != file.mtime_ns


def is_written_over(folder: Path, file: WeightFile) -> bool:
    """Tell whether such a file may be another's, written over through it: it has several links."""
    return is_out_of_time(folder, file) and (folder / file.file).stat().st_nlink > 1


def _rehash(folder: Path, files: Sequence[WeightFile], reporter: Reporter) -> None:
    with reporter.bytes("comparing copied weights", sum(file.bytes for file in files)) as piece:
        for file in files:
            path = folder / file.file
            if _hash(path, piece.advance) != file.sha256:
                raise ManifestError(
                    f"{path}: its bytes are not the recorded ones (sha256)",
                    "copy the engine again, or rebuild it with --force",
                )
    for file in files:
        path = folder / file.file
        try:
            os.utime(path, ns=(path.stat().st_atime_ns, file.mtime_ns))
        except OSError as error:
            _accepted.update(_identify(folder / each.file) for each in files)
            log.warning(
                "warning: %s was copied and its times can't be set (%s): its weights are "
                "rehashed whenever it is loaded",
                folder,
                error.strerror,
            )
            return


def _hash(path: Path, on_bytes: Callable[[int], None]) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(CHUNK):
                digest.update(chunk)
                on_bytes(len(chunk))
    except OSError as error:
        raise ManifestError(f"{path} can't be read: {error.strerror}") from None
    return digest.hexdigest()


def _identify(path: Path) -> _Identity:
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns
