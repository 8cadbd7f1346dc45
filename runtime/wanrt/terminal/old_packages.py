"""Packages that are there but older than what wanexport asks for, found before any is loaded.

pip sees to it, unless it is asked not to (`--no-deps`, an image's own torch). Then a traceback from
inside of some package would be all that a user is shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata

from wanrt.terminal.program import fail

__all__ = ["refuse_old_packages"]

# What pyproject.toml asks for, as the installed package's own metadata has it. `packaging` reads
# all of that grammar, and takes a fifth of the time of `wanrt --help` to load.
REQUIREMENT = re.compile(
    r"(?P<name>[\w.-]+)>=(?P<oldest>\d+(?:\.\d+)*)(?:\s*;\s*extra == ['\"](?P<extra>[\w-]+)['\"])?"
)
RELEASE = re.compile(r"\d+(?:\.\d+)*")


def refuse_old_packages(*extras: str) -> None:
    """End the program with exit status 1 if a package that is there is too old.

    Args:
        extras: the extras whose packages the program may load. Packages of the base install always
            count; a package that isn't there never does.
    """
    old = list(_find_old(extras))
    if old:
        said = ", ".join(f"{name} {found} (needs {oldest} or newer)" for name, found, oldest in old)
        pins = " ".join(f"'{name}>={oldest}'" for name, _, oldest in old)
        fail(f"too old for wanexport: {said}", f"pip install {pins}")


def _find_old(extras: tuple[str, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield name, version and oldest version that will do, of what is too old."""
    try:
        asked = metadata.requires("wanexport") or []
    except metadata.PackageNotFoundError:  # run from its sources, which nothing was installed for
        return
    for text in asked:
        wanted = REQUIREMENT.fullmatch(text)
        if wanted is None or wanted["extra"] not in (None, *extras):
            continue
        try:
            found = metadata.version(wanted["name"]) or ""
        except metadata.PackageNotFoundError:
            continue
        if () < _numbers(found) < _numbers(wanted["oldest"]):
            yield wanted["name"], found, wanted["oldest"]


def _numbers(version: str) -> tuple[int, ...]:
    """Return a release's numbers without zeros at their end: 2.9.0a0+nv25.9 counts as 2.9.

    NVIDIA's images call their builds of a release to come its alpha. "unknown", or the 0.0.0 of a
    shallow clone, has no numbers.
    """
    release = RELEASE.match(version)
    numbers = [int(part) for part in release[0].split(".")] if release else []
    while numbers and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)
