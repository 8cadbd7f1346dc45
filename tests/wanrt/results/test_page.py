"""docs/results.md describes every field that a bench saves."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from scripted import scripted_bench

from wanrt.results.json import to_json

PAGE = Path(__file__).parents[3] / "docs/results.md"
INSIDE = ("options", "machine", "warnings", "groups")
"""What the page leaves to the options, the machine and the text around it."""


def fields(value: Any) -> Iterator[str]:
    """Give the names of a JSON value's fields, at any depth."""
    if isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, dict):
        for key, held in value.items():
            yield key
            if key not in INSIDE:
                yield from fields(held)


def test_every_field_is_described(family: Path) -> None:
    saved = json.loads(to_json(scripted_bench(family)))
    page = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"[a-z_0-9]+", " ".join(re.findall(r"`([^`]+)`", page))))
    assert not set(fields(saved)) - named
    assert not set(saved["groups"][0]) - named
    assert f"| `schema` | {saved['schema']} |" in page
