"""The builds of libwanrt that `make cpp` made, and its tool as Python calls it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "runtime" / "cpp"
BUILD = ROOT / "build" / "cpp"
BUILDS = ("plain", "sanitized")
TOOLS = ("cmake", "pkg-config", "c++", "clang++")
LACKING = [tool for tool in TOOLS if shutil.which(tool) is None]
needs_tools = pytest.mark.skipif(bool(LACKING), reason=f"libwanrt needs {', '.join(LACKING)}")


def run(*argv: object, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, whatever that is."""
    return subprocess.run(
        [str(arg) for arg in argv],
        cwd=cwd,
        env=os.environ | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


def check(*argv: object, cwd: Path = ROOT, **env: str) -> str:
    """Run a program that must succeed, and return what it printed."""
    done = run(*argv, cwd=cwd, **env)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def host(build: str, *argv: object, name: str = "wanrt-host") -> subprocess.CompletedProcess[str]:
    """Run a build's wanrt-host, or another of its tools."""
    tool = BUILD / build / name
    assert tool.is_file(), f"{tool} isn't built; run: make cpp"
    return run(tool, *argv)
