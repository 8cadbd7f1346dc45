"""Opened engine folders: engine.json is read once, when a folder is opened."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wanrt.errors import ManifestError
from wanrt.manifest.copies import accept_copies
from wanrt.manifest.read import check_sizes, read_manifest_only
from wanrt.manifest.schema import Manifest
from wanrt.terminal.progress import Reporter

__all__ = ["BrokenFolder", "EngineFolder", "OpenedFolder", "check_files", "open_folder", "try_open"]


@dataclass(frozen=True)
class EngineFolder:
    """An engine folder and its engine.json."""

    path: Path
    manifest: Manifest

    @property
    def bytes(self) -> int:
        """How many bytes its files have, as recorded."""
        return sum(file.bytes for file in self.manifest.files)


@dataclass(frozen=True)
class BrokenFolder:
    """A folder whose engine.json can't be read, and why."""

    path: Path
    error: ManifestError


OpenedFolder = EngineFolder | BrokenFolder


def open_folder(path: Path) -> EngineFolder:
    """Read a folder's engine.json without looking at the files that it names.

    Raises:
        ManifestError: the file is missing, malformed or of a newer schema.
    """
    return EngineFolder(path, read_manifest_only(path))


def try_open(path: Path) -> OpenedFolder:
    """Open a folder; what is wrong with its engine.json is for a later stage to say."""
    try:
        return open_folder(path)
    except ManifestError as error:
        return BrokenFolder(path, error)


def check_files(folder: EngineFolder, reporter: Reporter | None = None) -> None:
    """Check that all files are there, of the recorded sizes, and no linked one was written over.

    The weights of a folder that was copied are rehashed once, which `reporter` shows.

    Raises:
        ManifestError: one isn't as recorded.
    """
    check_sizes(folder.path, folder.manifest)
    accept_copies(folder.path, folder.manifest, reporter)
