"""What `--force` may replace: an engine, and nothing that is somebody else's."""

from __future__ import annotations

from pathlib import Path

from wanrt.errors import WanrtError
from wanrt.manifest.read import MANIFEST_NAME, read_manifest_only

__all__ = ["why_not_replace"]


def why_not_replace(folder: Path) -> str:
    """Return why a folder can't be replaced; empty if it holds an engine and nothing else."""
    if folder.is_symlink() or not folder.is_dir():
        return "it isn't a folder"
    try:
        manifest = read_manifest_only(folder)
    except WanrtError as error:
        return str(error)
    files = [MANIFEST_NAME, *(file.file for file in manifest.files)]
    named = {folder / file for file in files}
    parents = {parent for path in named for parent in path.parents}
    for path in sorted(folder.rglob("*")):
        is_folder = path.is_dir() and not path.is_symlink()
        if path not in (parents if is_folder else named):
            return f"its engine.json doesn't name {path.relative_to(folder)}"
    return ""
