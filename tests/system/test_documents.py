"""The files, tables and commands that ARCHITECTURE.md and CONTRIBUTING.md name are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("ARCHITECTURE.md", "CONTRIBUTING.md")
ROOTS = (ROOT, ROOT / "export/wanexport", ROOT / "runtime/wanrt")
WRITTEN = {"engine.json", "configs/NAME.toml"}  # named, and of no checkout
NAMED = re.compile(r"[\w.-]+(?:/[\w.-]+)*(?:/|\.(?:py|md|toml|json|txt|yaml))")


def named_paths(page: str) -> set[str]:
    """Return what a page names as a file or folder: in backticks, or as a link's target."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    quoted = [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"\]\(([^)#:]+)\)", text)]
    return {name for name in quoted if NAMED.fullmatch(name)} - WRITTEN


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_named_exist(page: str) -> None:
    named = named_paths(page)
    assert len(named) > 15
    assert not {name for name in named if not any((root / name).exists() for root in ROOTS)}


def test_make_targets_that_are_named_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"\bmake ([a-z-]+)\b", re.sub(r"[^`]*(`[^`]*`|$)", r"\1 ", text)))
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert targets
    assert not {name for name in targets if not re.search(rf"^{name}:", makefile, re.MULTILINE)}


@pytest.mark.parametrize("package", ROOTS[1:], ids=lambda root: root.name)
def test_every_room_is_in_the_architecture(package: Path) -> None:
    rooms = {f"{path.name}/" for path in package.iterdir() if (path / "__init__.py").is_file()}
    assert not rooms - named_paths("ARCHITECTURE.md")


def test_tables_that_are_to_be_extended_exist() -> None:
    for name, file in (
        ("PREFIXES", "export/wanexport/lora/keys.py"),
        ("SUFFIXES", "export/wanexport/lora/keys.py"),
        ("UNSUPPORTED", "export/wanexport/lora/keys.py"),
        ("DIALECTS", "tests/support/lorafiles.py"),
        ("Backend", "runtime/wanrt/manifest/schema.py"),
        ("def lower_for", "export/wanexport/graph/passes.py"),
    ):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert re.search(rf"^{name}\b", text, re.MULTILINE), name
        assert name.removeprefix("def ") in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_the_architecture_is_one_page() -> None:
    assert len((ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8").splitlines()) <= 60
