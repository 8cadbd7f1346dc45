"""Fresh environments of chosen versions, by uv."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from versions.pythons import Release, find_pythons

__all__ = ["Environment", "InstallError", "list_environments"]

ROOT = Path(__file__).parents[2]
UV = Path(sys.executable).with_name("uv")
SHOWN = ("torch", "diffusers", "transformers", "peft", "numpy", "onnx", "onnx-ir", "onnxscript",
         "onnxruntime", "typer", "tensorrt-rtx-cu13-libs")  # fmt: skip
"""Packages whose versions the table has."""


class InstallError(Exception):
    """uv finds no versions that go together, or can't install them."""


@dataclass(frozen=True)
class Environment:
    """One environment: how its versions are chosen, and its folder."""

    name: str
    release: Release
    python: Path
    choice: tuple[str, ...]  # what uv is asked for
    folder: Path

    @property
    def bin(self) -> Path:
        """The folder of its commands."""
        return self.folder / "bin"

    def install(self, extras: Sequence[str]) -> None:
        """Make it if it isn't there, with exactly the versions that are chosen for these extras.

        Raises:
            InstallError: these versions can't be had together.
        """
        if not self.folder.is_dir():
            _uv("venv", "--seed", "--python", self.python, self.folder)
        chosen = self.folder.with_suffix(".txt")
        flags = [flag for extra in extras for flag in ("--extra", extra)]
        _uv("pip", "compile", "--upgrade", "--no-header", "--no-annotate", "--python", self.python,
            *self.choice, *flags, "--output-file", chosen, ROOT / "pyproject.toml")  # fmt: skip
        python = self.bin / "python"
        _uv("pip", "install", "--python", python, "--requirements", chosen)
        _uv("pip", "install", "--python", python, "--no-deps", "--editable", ROOT)

    def versions(self) -> dict[str, str]:
        """Return package -> version, of those whose versions tell environments apart."""
        (site,) = self.folder.glob("lib/python3.*/site-packages")
        found = {
            each.name.lower().replace("_", "-"): each.version
            for each in metadata.distributions(path=[str(site)])
        }
        return {name: found.get(name, "-") for name in SHOWN}

    def remove(self) -> None:
        """Give its 5 to 7 GB back."""
        shutil.rmtree(self.folder, ignore_errors=True)


def list_environments(work: Path) -> list[Environment]:
    """Return the oldest, the newest and the pinned environment that this machine can make.

    The pinned one has the Python that runs this.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = project["requires-python"].removeprefix(">=")
    major, minor = map(int, declared.split("."))
    pythons = find_pythons((major, minor))
    oldest, newest = next(iter(pythons)), next(reversed(pythons))
    if oldest[:2] != (major, minor):
        print(f"left out: Python {declared}, the oldest declared, isn't here")
    own: Release = sys.version_info[:3]
    constraints = ("--constraints", str(ROOT / "constraints.txt"))
    return [
        Environment(name, release, python, choice, work / name)
        for name, release, python, choice in (
            ("oldest", oldest, pythons[oldest], ("--resolution", "lowest-direct")),
            ("newest", newest, pythons[newest], ()),
            ("pinned", own, Path(sys.executable), constraints),
        )
    ]


def _uv(*arguments: str | Path) -> None:
    done = subprocess.run((UV, "--quiet", *arguments), capture_output=True, text=True)
    if done.returncode:
        raise InstallError(done.stderr.strip())
