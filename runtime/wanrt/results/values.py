"""The plain values that a bench's result is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from wanrt.manifest.fields import Count, Positive

__all__ = [
    "Advice", "Energy", "Factor", "Forward", "Joules", "Probe", "Ratio", "Seconds", "Verdict",
]  # fmt: skip

Seconds = Annotated[float, Field(ge=0, le=1e9)]
Joules = Annotated[float, Field(ge=0, le=1e18)]
Factor = Annotated[float, Field(gt=1e-9, lt=1e9)]
"""Of speed against the baseline's. What a file says beyond these limits can't be a measurement."""

TICK_S = 1e-9
"""A clock that saw no time pass leaves rates and logarithms finite."""

Verdict = Literal["baseline", "faster", "slower", "same", "unresolved"]


@dataclass(frozen=True)
class Forward:
    """One timed forward: of which load of the engine, in which round, how long.

    `enqueue_s` are the host's seconds of it until all was enqueued, where a device computes.
    """

    load: Count
    round: Count
    seconds: Seconds
    enqueue_s: Seconds | None = None


@dataclass(frozen=True)
class Energy:
    """What a GPU used while so many forwards ran, those that warm it up included, by NVML."""

    joules: Joules
    forwards: Positive

    @property
    def forward_j(self) -> float:
        """Of one forward, on average."""
        return self.joules / self.forwards


@dataclass(frozen=True)
class Ratio:
    """Speed against the baseline: above 1 is faster.

    `low` to `high` is the 95 % interval over loads; there is none of a single load. `p` is the
    two-sided p-value of "as fast as the baseline", corrected for all candidates of the bench (a
    control's is not), and `verdict` what may be claimed.
    """

    value: Factor
    low: Factor | None
    high: Factor | None
    loads: Count
    rounds: Count
    p: Annotated[float, Field(ge=0, le=1)] | None
    verdict: Verdict


@dataclass(frozen=True)
class Probe:
    """What one engine takes, found in a process of its own.

    `cold_load_s` is a load with none of its files in the page cache, `first_forward_s` the first
    forward after it, `warm_load_s` a load with all of them there, `swap_s` what exchanging a
    swappable engine's adapter by its file takes. `memory_bytes` is the peak of
    anonymous memory, mapped file pages apart; `device_bytes` what the device lost to it.
    `disk_bytes` are the folder's files, `shared_bytes` those of them that are the baseline's own,
    by inode. Of a split engine, `context_s` is what preparing a context took, with loading what it
    takes, and `context_bytes` what that moves at least, its weights included.
    """

    cold_load_s: Seconds | None = None
    warm_load_s: Seconds | None = None
    first_forward_s: Seconds | None = None
    memory_bytes: Count | None = None
    device_bytes: Count | None = None
    disk_bytes: Count | None = None
    shared_bytes: Count | None = None
    context_s: Seconds | None = None
    context_bytes: Count | None = None
    swap_s: Seconds | None = None


@dataclass(frozen=True)
class Advice:
    """A warning: its code, what was seen, what to do."""

    code: str
    text: str
    hint: str
