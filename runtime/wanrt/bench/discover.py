"""Which engine folders a path holds, and which device they need."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from wanrt.backends.load import check_engine
from wanrt.engine.engine import DeviceKind
from wanrt.errors import ResultsError, WanrtError
from wanrt.manifest.folder import EngineFolder, OpenedFolder, try_open
from wanrt.manifest.read import MANIFEST_NAME
from wanrt.storage.files import real_path

__all__ = ["choose_device", "open_engines"]


def open_engines(paths: Iterable[Path]) -> list[OpenedFolder]:
    """Open the engine folders among `paths` and directly in them, each once.

    No later stage reads their engine.json again.

    Raises:
        ResultsError: a path doesn't exist or holds no engine.
    """
    found: dict[Path, Path] = {}
    for path in paths:
        if not path.is_dir():
            raise ResultsError(f"{path} isn't a folder", "build engines: wanexport build --rank 32")
        inside = [path] if (path / MANIFEST_NAME).exists() else _engines_in(path)
        if not inside:
            raise ResultsError(f"{path} holds no engine", "build one: wanexport build --rank 32")
        for folder in inside:
            found.setdefault(real_path(folder), folder)
    return [try_open(folder) for folder in found.values()]


def choose_device(folders: Iterable[OpenedFolder]) -> DeviceKind:
    """Return cuda if a TensorRT engine among the folders can run here, otherwise cpu."""
    for folder in folders:
        if isinstance(folder, EngineFolder) and folder.manifest.backend != "onnxruntime":
            with suppress(WanrtError):  # whoever loads it says why not
                check_engine(folder)
                return "cuda"
    return "cpu"


def _engines_in(path: Path) -> list[Path]:
    try:
        children = sorted(path.iterdir())
    except OSError as error:
        raise ResultsError(f"{path} can't be read: {error.strerror}") from None
    return [c for c in children if not c.name.startswith(".") and (c / MANIFEST_NAME).exists()]
