"""What an engine computes, by its bytes: checked whenever it is loaded.

A graph of the same size with another operator or offset runs, and runs wrongly. Graphs and
constants are a few MB, so they are hashed at every load. Weights and plans are gigabytes: their
sizes and times are compared at a load, their bytes by `wanrt verify`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from wanrt.errors import ManifestError
from wanrt.manifest.fields import File
from wanrt.manifest.folder import EngineFolder
from wanrt.manifest.schema import Manifest

__all__ = ["check_contents", "has_recorded_bytes"]


def check_contents(folder: EngineFolder) -> None:
    """Check the bytes of graphs, of their descriptions and of constants.

    Raises:
        ManifestError: a file has other bytes than engine.json records, or can't be read.
    """
    for file in _small_files(folder.manifest):
        path = folder.path / file.file
        try:
            right = has_recorded_bytes(path, file)
        except OSError as error:
            raise ManifestError(f"{path} can't be read: {error.strerror}") from None
        if not right:
            raise ManifestError(
                f"{path}: its bytes are not the recorded ones (sha256)",
                "rebuild the engine with --force",
            )


def has_recorded_bytes(path: Path, file: File) -> bool:
    """Tell whether a file has the bytes that engine.json records of it."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256


def _small_files(manifest: Manifest) -> list[File]:
    files: list[File] = []
    for graph in manifest.graphs.values():
        layers = graph.plan.layers if graph.plan is not None else None
        files += [file for file in (graph, graph.emulated, layers) if file is not None]
    return files + [file for file in manifest.weights if file.origin == "constants"]
