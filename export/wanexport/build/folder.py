"""Drafts become engine folders, whole or not at all; what `--force` may replace is an engine."""

from __future__ import annotations

import os
from pathlib import Path

from wanexport.errors import BuildError
from wanexport.storage.drafts import place_draft
from wanrt.errors import WanrtError
from wanrt.manifest.read import MANIFEST_NAME, read_manifest_only

__all__ = ["publish", "why_not_replace"]


def publish(draft: Path, target: Path, *, replace: bool) -> bool:
    """Give a finished draft its name.

    Args:
        draft: the folder, engine.json written.
        target: what it becomes.
        replace: whether an engine that is there makes way.

    Returns:
        Whether the draft took the name; if not, something else has it.

    Raises:
        BuildError: what is there isn't an engine, or holds more than one.
    """
    if replace and os.path.lexists(target) and (reason := why_not_replace(target)):
        raise BuildError(f"{target} can't be replaced: {reason}", "move it away first")
    return place_draft(draft, target, replace=replace)


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
