"""What paths of the Hugging Face cache are called on the hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["HubFile", "hub_file"]

CACHED = "models--"  # a repository in the Hugging Face cache: models--OWNER--NAME


@dataclass(frozen=True)
class HubFile:
    """A file or folder of a repository in the Hugging Face cache.

    Args:
        repo: `owner/name`.
        revision: the snapshot's; empty for a blob, which belongs to any number of them.
        inside: its path in the repository; empty for all of it, and for a blob.
    """

    repo: str
    revision: str = ""
    inside: Path = Path()

    @property
    def id(self) -> str:
        """What names it: `owner/name/path/inside`."""
        return self.repo_path(self.inside)

    def repo_path(self, inside: Path) -> str:
        """Return what wanexport takes for a path in the repository: `owner/name[/path]`."""
        return (Path(self.repo) / inside).as_posix()


def hub_file(path: Path) -> HubFile | None:
    """Return what of which repository a path of the Hugging Face cache is; None for any other.

    `models--OWNER--NAME/snapshots/REVISION/PATH`, or `models--OWNER--NAME/blobs/HASH`.
    """
    parts = path.absolute().parts
    at = next((i for i, part in enumerate(parts) if part.startswith(CACHED)), None)
    if at is None:
        return None
    repo = parts[at].removeprefix(CACHED).replace("--", "/", 1)
    match parts[at + 1 :]:
        case ("snapshots", revision, *inside):
            return HubFile(repo, revision, Path(*inside))
        case ("blobs", _):
            return HubFile(repo)
    return None
