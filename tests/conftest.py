"""Fixtures of several test files: four tiny engines, and scripts of fake benches."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tinyengines import make_family


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A folder of full, merged r4, separate r4 and swappable engines."""
    return make_family(tmp_path / "engines")


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Path]:
    """Write the script of a fake bench and return its path."""

    def write(**script: Any) -> Path:
        path = tmp_path / "script.json"
        path.write_text(json.dumps(script))
        return path

    return write
