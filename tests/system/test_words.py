"""Help, errors, docstrings and pages avoid phrases that have to be read twice."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pages import PAGES, ROOT, name_page

AVOIDED = re.compile(r"\b(told|anew|want of|(?<![Tt]here )is (none|no [a-z]+)|lies)\b")
"""All but "there is no file", which is plain."""
ALLOWED: dict[str, set[str]] = {}
"""File -> phrases that mean there what they say."""
SOURCES = [
    path
    for root in ("export/wanexport", "runtime/wanrt", "tools", "benchmarks")
    for path in sorted((ROOT / root).rglob("*.py"))
]
NATIVE = [
    path
    for suffix in ("*.cpp", "*.h", "*.hpp")
    for folder in ("examples", "include", "src")
    for path in sorted((ROOT / "runtime/cpp" / folder).rglob(suffix))
]
WRITTEN = [*PAGES, ROOT / "CHANGELOG.md",
           ROOT / "Makefile", *sorted(ROOT.glob("configs/*.toml")), *NATIVE]  # fmt: skip


def python_texts(path: Path) -> Iterator[tuple[int, str]]:
    """Give the literals of a module, docstrings among them, with their lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.lineno, " ".join(node.value.split())


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Give a page's lines; of C++ the strings alone, but of the public headers all."""
    strings_alone = path in NATIVE and "include" not in path.parts
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        yield number, " ".join(re.findall(r'"[^"]*"', line)) if strings_alone else line


@pytest.mark.parametrize("path", [*SOURCES, *WRITTEN], ids=name_page)
def test_reads_at_the_first_try(path: Path) -> None:
    texts = python_texts(path) if path.suffix == ".py" else lines(path)
    allowed = ALLOWED.get(name_page(path), set())
    found = [
        f"{line}: {text}"
        for line, text in texts
        for match in AVOIDED.finditer(text)
        if match[0] not in allowed
    ]
    assert not found
