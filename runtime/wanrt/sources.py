"""The files an engine was made from, by the names people know them by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from wanrt.manifest import Source

__all__ = ["HubFile", "hub_file", "show_sources"]

CACHED = "models--"  # a repository in the Hugging Face cache: models--OWNER--NAME


@dataclass(frozen=True)
class HubFile:
    """A file of a repository in the Hugging Face cache.

    Args:
        repo: `owner/name`.
        revision: the snapshot's; empty for a blob, which belongs to any number of them.
        inside: its path in the repository; empty for a blob.
    """

    repo: str
    revision: str = ""
    inside: Path = Path()

    def repo_path(self, inside: Path) -> str:
        """Return what wanexport takes for a path in the repository: `owner/name[/path]`."""
        return (Path(self.repo) / inside).as_posix()


def hub_file(path: Path) -> HubFile | None:
    """Return which repository's file a path of the Hugging Face cache is; None for any other.

    `models--OWNER--NAME/snapshots/REVISION/PATH`, or `models--OWNER--NAME/blobs/HASH`.
    """
    parts = path.parts
    at = next((i for i, part in enumerate(parts) if part.startswith(CACHED)), None)
    if at is None:
        return None
    repo = parts[at].removeprefix(CACHED).replace("--", "/", 1)
    match parts[at + 1 :]:
        case ("snapshots", revision, *inside) if inside:
            return HubFile(repo, revision, Path(*inside))
        case ("blobs", _):
            return HubFile(repo)
    return None


def show_sources(sources: Sequence[Source]) -> Iterator[str]:
    """Yield a text per source; several of one folder follow a line that names it."""
    for folder, members in groupby(sources, lambda source: Path(source.path).parent):
        held = list(members)
        cached = hub_file(Path(held[0].path))
        revision = f", revision {cached.revision[:12]}" if cached and cached.revision else ""
        if len(held) == 1:
            name = cached.repo_path(cached.inside) if cached else held[0].path
            yield f"{name} {_facts(held[0])}{revision}"
            continue
        yield f"{cached.repo_path(cached.inside.parent) if cached else folder}{revision}:"
        yield from (f"  {Path(source.path).name} {_facts(source)}" for source in held)


def _facts(source: Source) -> str:
    strength = "" if source.strength in (None, 1.0) else f", strength {source.strength:g}"
    return f"{source.sha256[:12]}{strength}"
