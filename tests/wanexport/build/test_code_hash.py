"""Whose code is part of an engine's identity: whole packages, those on its path and no others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import wanexport
from wanexport.build.reuse import SHAPING, code_hash
from wanexport.storage.source_hash import hash_packages

ROOT = Path(wanexport.__file__).parent
NEVER = {"cli", "cluster", "extraction", "inspection", "pipelines", "study", "verify"}


def packages() -> set[str]:
    return {path.parent.name for path in ROOT.glob("*/__init__.py")}


def test_every_package_shapes_engines_or_is_known_not_to() -> None:
    assert packages() == {*SHAPING, "lora", "tensorrt"} | NEVER


@pytest.mark.parametrize("package", sorted(packages()))
def test_of_an_engine(tmp_path: Path, package: str) -> None:
    root = tmp_path / "wanexport"
    shutil.copytree(ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
    before = [code_hash(mode, root) for mode in ("full", "merged")]
    (root / package / "later.py").write_text("VALUE = 1\n", encoding="utf-8")
    hash_packages.cache_clear()
    after = [code_hash(mode, root) for mode in ("full", "merged")]
    changed = [a != b for a, b in zip(before, after, strict=True)]
    assert changed == [package in SHAPING, package in {*SHAPING, "lora"}]
