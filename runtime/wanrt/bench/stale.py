"""Engines whose files or sources changed since they were made, and what rebuilds them."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from wanrt.manifest.copies import is_written_over
from wanrt.manifest.folder import EngineFolder
from wanrt.manifest.origin import Source
from wanrt.manifest.read import MANIFEST_NAME
from wanrt.manifest.schema import Manifest
from wanrt.results.values import Advice

__all__ = ["find_stale"]


def find_stale(folder: EngineFolder) -> Advice | None:
    """Return a warning if an engine no longer is what it was made from; nothing is hashed.

    A file of the folder has another size, or a linked one another time than the recorded one: then
    it won't load. Or a source was written after the engine: then it runs, as it was made.
    """
    path, manifest = folder.path, folder.manifest
    changed = next(_changed_files(path, manifest), None)
    rebuild = manifest.rebuild_command
    if changed:
        verify = shlex.join(["wanrt", "verify", str(path), "--restore-mtime"])
        hint = "rebuild it where it was built; or, if only times changed, compare the bytes:"
        return Advice("stale", f"{path}: {changed}", f"{hint}\n{rebuild}\n{verify}")
    newer = next(_newer_sources(path, manifest), None)
    if newer:
        text = f"{path}: {newer.path} was written after the engine was made from it"
        return Advice("stale", text, f"rebuild it where it was built:\n{rebuild}")
    return None


def _changed_files(folder: Path, manifest: Manifest) -> Iterator[str]:
    weights = {file.file: file for file in manifest.weights}
    for file in manifest.files:
        try:
            stat = (folder / file.file).stat()
        except OSError:  # missing: whoever reads it says so
            continue
        if stat.st_size != file.bytes:
            yield f"{file.file} has {stat.st_size:,} bytes, not {file.bytes:,}"
        elif file.file in weights and is_written_over(folder, weights[file.file]):
            yield f"{file.file}, which is linked, was written to"


def _newer_sources(folder: Path, manifest: Manifest) -> Iterator[Source]:
    made_ns = (folder / MANIFEST_NAME).stat().st_mtime_ns
    for source in manifest.sources:
        path = Path(source.path)
        if path.is_file() and path.stat().st_mtime_ns > made_ns:
            yield source
