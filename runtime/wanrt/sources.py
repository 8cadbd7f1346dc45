"""The files an engine was made from, by the names people know them by."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

from wanrt.hub import hub_file
from wanrt.manifest import Source

__all__ = ["show_sources"]


def show_sources(sources: Sequence[Source]) -> Iterator[str]:
    """Yield a text per source; several of one folder follow a line that names it."""
    for folder, members in groupby(sources, lambda source: Path(source.path).parent):
        held = list(members)
        cached = hub_file(Path(held[0].path))
        revision = f", revision {cached.revision[:12]}" if cached and cached.revision else ""
        if len(held) == 1:
            name = cached.id if cached else held[0].path
            yield f"{name} {_facts(held[0])}{revision}"
            continue
        yield f"{cached.repo_path(cached.inside.parent) if cached else folder}{revision}:"
        yield from (f"  {Path(source.path).name} {_facts(source)}" for source in held)


def _facts(source: Source) -> str:
    strength = "" if source.strength in (None, 1.0) else f", strength {source.strength:g}"
    return f"{source.sha256[:12]}{strength}"
