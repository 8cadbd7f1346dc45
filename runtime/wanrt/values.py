"""The plain values that a bench's result is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["Advice", "Forward", "Ratio", "Verdict"]

Verdict = Literal["baseline", "faster", "slower", "same", "unresolved"]


@dataclass(frozen=True)
class Forward:
    """One timed forward: of which load of the engine, in which round, how long."""

    load: int
    round: int
    seconds: float


@dataclass(frozen=True)
class Ratio:
    """Speed against the baseline: above 1 is faster. Without enough rounds there is no interval."""

    value: float
    low: float | None
    high: float | None
    rounds: int
    verdict: Verdict


@dataclass(frozen=True)
class Advice:
    """A warning: its code, what was seen, what to do."""

    code: str
    text: str
    hint: str
