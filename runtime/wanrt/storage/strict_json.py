"""JSON by the letter: Python's own parser takes NaN, a key twice, half a surrogate pair, 1e999."""

from __future__ import annotations

import json
import math
import re

__all__ = ["parse_json"]

SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(text: str) -> object:
    """Parse a text that gives every key once, no number beyond a double's and whole characters.

    Raises:
        ValueError: it isn't such a text.
        RecursionError: it is nested too deeply.
    """
    value = json.loads(
        text, object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
    )
    if SURROGATE.search(text):  # an escape of one: what has none is as whole as the text itself
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _refuse_constant(name: str) -> object:
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
        raise ValueError(f"{text} isn't a finite number")
    return number
