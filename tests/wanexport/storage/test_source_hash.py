"""The hash of code: what it sees, what it doesn't, and that every Python comes to the same."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import wanexport
from wanexport.storage.source_hash import hash_packages, list_tokens

ROOT = Path(wanexport.__file__).parent
SCRIPT = ROOT / "storage" / "source_hash.py"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

# what Python 3.11 and 3.12 cut into other tokens, and what is left out
TRICKY = (Path(__file__).parent / "data" / "tricky.py.txt").read_text(encoding="utf-8")
FROZEN = "f103b698a06fed3df2a1be1ff37ccd4660e5ec906b65f10fac1272b78cd6c6a3"


def write(root: Path, source: str) -> Path:
    (root / "package").mkdir(parents=True, exist_ok=True)
    (root / "package" / "module.py").write_text(source, encoding="utf-8")
    return root


def digest(root: Path, source: str) -> str:
    hash_packages.cache_clear()
    return hash_packages(write(root, source), ("package",))


def test_is_the_same_with_every_python_that_ever_runs_this(tmp_path: Path) -> None:
    assert digest(tmp_path, TRICKY) == FROZEN, f"with Python {sys.version}"


@pytest.mark.system
def test_pythons_at_hand_agree_on_the_product_and_the_standard_library(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A machine with one Python has the frozen hash to hold it to, and says what it lacks."""
    write(tmp_path, TRICKY)
    asked = {
        "tricky code": (tmp_path, ["package"]),
        "wanexport": (ROOT, ["."]),
        "the standard library": (Path(sys.base_prefix) / "lib" / _version(), ["json", "asyncio"]),
    }
    found = {version: python for version in PYTHONS if (python := find_python(version))}
    for what, (root, packages) in asked.items():
        here = hash_packages(root, tuple(packages))
        for version, python in found.items():
            done = subprocess.run(
                [python, "-I", SCRIPT, root, *packages], capture_output=True, text=True, timeout=60
            )
            assert (done.stdout, done.stderr) == (f"{here}\n", ""), f"{what}, Python {version}"
    lacking = ", ".join(version for version in PYTHONS if version not in found)
    code = hash_packages(ROOT, (".",))[:12]
    with capsys.disabled():
        sys.stdout.write(f"[{code} by Python {', '.join(found)}; not here: {lacking or 'none'}]")


def find_python(version: str) -> str | None:
    """Find an interpreter on PATH or among pyenv's, and make sure that it is one."""
    places = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    names = [shutil.which(f"python{version}"), *map(str, places)]
    for name in filter(None, names):
        done = subprocess.run([name, "--version"], capture_output=True, text=True, timeout=60)
        if done.stdout.startswith(f"Python {version}."):
            return name
    return None


def _version() -> str:
    return f"python{sys.version_info.major}.{sys.version_info.minor}"


SAME: dict[str, Callable[[str], str]] = {
    "a comment more": lambda s: s.replace("D =", "# what D is\nD ="),
    "a comment less": lambda s: s.replace("  # two", ""),
    "another docstring": lambda s: s.replace("Do nothing.", "Do \n\n something."),
    "no docstring": lambda s: s.replace('    """Do nothing."""\n', ""),
    "another account of a constant": lambda s: s.replace("What NAME is", "Another"),
    "blank lines": lambda s: s.replace("\nD =", "\n\n\n\nD ="),
    "spaces": lambda s: s.replace("D = b", "D  =   b"),
    "another wrap": lambda s: s.replace('"a"\n        "b"', '"a" "b"'),
    "no first line": lambda s: s.partition("\n")[2],
}
OTHER: dict[str, Callable[[str], str]] = {
    "another value": lambda s: s.replace("1_000", "1_001"),
    "another text": lambda s: s.replace('"a"', '"A"'),
    "another literal part of an f-string": lambda s: s.replace("{{no}}", "{{yes}}"),
    "another expression of an f-string": lambda s: s.replace("NAME!r", "NAME!s"),
    "another f-string of several lines": lambda s: s.replace("  # no comment\n\n", "  # no\n"),
    "no decorator": lambda s: s.replace("@property\n", ""),
    "an f-string for a docstring": lambda s: s.replace('"""Do', 'f"""Do'),
    "a statement in another block": lambda s: s.replace("\nD =", "\nif A:\n    D ="),
    "another name": lambda s: s.replace("Empty", "Full"),
}


@pytest.mark.parametrize("case", SAME)
def test_does_not_see(tmp_path: Path, case: str) -> None:
    changed = SAME[case](TRICKY)
    assert changed != TRICKY
    assert digest(tmp_path, changed) == digest(tmp_path, TRICKY)


@pytest.mark.parametrize("case", OTHER)
def test_sees(tmp_path: Path, case: str) -> None:
    changed = OTHER[case](TRICKY)
    assert changed != TRICKY
    assert digest(tmp_path, changed) != digest(tmp_path, TRICKY)


def test_sees_modules_come_and_go(tmp_path: Path) -> None:
    before = digest(tmp_path, "x = 1\n")
    (tmp_path / "package" / "other.py").write_text("")
    assert digest(tmp_path, "x = 1\n") != before


def test_keeps_what_runs() -> None:
    assert list(list_tokens('"""Doc."""\nif x:\n    f(1)  # why\n')) == [
        "if", "x", ":", "NEWLINE", "INDENT", "f", "(", "1", ")", "NEWLINE", "DEDENT",
    ]  # fmt: skip
