"""JSON by the letter: Python's own parser takes NaN, a key twice, and 1e999 as infinity."""

from __future__ import annotations

import json
import math

__all__ = ["parse_json", "refuse_constant"]


def parse_json(text: str) -> object:
    """Parse a text that gives every key once and no number beyond a double's.

    Raises:
        ValueError: it isn't such a text.
        RecursionError: it is nested too deeply.
    """
    return json.loads(
        text, object_pairs_hook=_unique, parse_constant=refuse_constant, parse_float=_finite
    )


def refuse_constant(name: str) -> object:
    """Refuse NaN and the infinities, as `parse_constant` of Python's parser."""
    raise ValueError(f"{name} is no JSON number")


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found: dict[str, object] = {}
    for key, value in pairs:
        if key in found:
            raise ValueError(f"key {key} is there twice")
        found[key] = value
    return found


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError(f"{text} is no finite number")
    return number
