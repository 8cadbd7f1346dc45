"""Repositories of the Hugging Face hub that this machine has in its cache; nothing is fetched."""

from __future__ import annotations

import re
from pathlib import Path

from wanexport.errors import CheckpointError, WanExportError
from wanrt.errors import install_hint

__all__ = ["cached_snapshot"]

HUB_ID = re.compile(r"(?P<repo>[\w-][\w.-]*/[\w-][\w.-]*)(?:/(?P<inside>[\w./-]+))?")


def cached_snapshot(hub_id: str, error: type[WanExportError] = CheckpointError) -> Path:
    """Return the local folder or file of `org/name` or `org/name/path/inside`.

    Raises:
        CheckpointError: (or the class given as `error`) it isn't a hub id, or isn't in the cache.
    """
    match = HUB_ID.fullmatch(hub_id)
    if match is None or ".." in hub_id.split("/"):
        raise error(f"{hub_id} doesn't exist")
    repo, inside = match["repo"], match["inside"] or ""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError
    except ImportError:
        raise error(
            f"{hub_id} doesn't exist here, and huggingface_hub isn't installed to look it up",
            install_hint("export"),
        ) from None
    try:
        path = Path(snapshot_download(repo, local_files_only=True)) / inside
    except (HFValidationError, LocalEntryNotFoundError):
        raise error(
            f"{hub_id} is neither a path here nor in the local Hugging Face cache",
            f"hf download {repo}",
        ) from None
    if not path.exists():
        raise error(f"{repo} is in the local Hugging Face cache without {inside}", f"see {path}")
    return path
