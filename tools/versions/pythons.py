"""The Pythons of this machine: on PATH, and those that pyenv keeps."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

__all__ = ["Release", "find_pythons"]

Release = tuple[int, int, int]
ASK = "import sys, ensurepip; print(*sys.version_info[:3])"


def find_pythons(oldest: tuple[int, int]) -> dict[Release, Path]:
    """Return version -> interpreter of every Python from `oldest` on, in order."""
    found: dict[Release, Path] = {}
    for path in _candidates():
        done = subprocess.run((path, "-c", ASK), capture_output=True, text=True)
        if done.returncode:  # a shim of pyenv for a version that isn't switched on
            continue
        major, minor, micro = map(int, done.stdout.split())
        if (major, minor) >= oldest:
            found.setdefault((major, minor, micro), path)
    return dict(sorted(found.items()))


def _candidates() -> Iterator[Path]:
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    yield from sorted(pyenv.glob("versions/*/bin/python"))
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        yield from sorted(Path(folder).glob("python3.[0-9][0-9]"))
