"""Publish finished drafts as engine folders, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

from wanexport.build.replaceable import why_not_replace
from wanexport.errors import BuildError
from wanexport.storage.drafts import place_draft

__all__ = ["publish"]


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
