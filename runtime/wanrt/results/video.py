"""The units that people compare: a sampler's step and a whole video, ours and published ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from wanrt.results.values import Joules

__all__ = ["ForwardsPerStep", "Published", "Steps", "Text", "Video", "VideoUnits"]

Steps = Annotated[int, Field(ge=1, le=100_000)]
ForwardsPerStep = Annotated[int, Field(ge=1, le=100)]
LongSeconds = Annotated[float, Field(ge=0, le=1e18)]
Text = Annotated[str, Field(min_length=1)]


@dataclass(frozen=True)
class Published:
    """A figure that others published: whose, on which hardware, and where it is written."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    who: Text
    figure: Annotated[float, Field(gt=0, le=1e9)]
    unit: Literal["seconds per step", "samples per second"]
    hardware: Text
    source: Text


@dataclass(frozen=True)
class Video:
    """What a video takes, whose units a bench shows.

    `steps` is None where only steps are counted, `workload` the named one that it comes from.
    """

    steps: Steps | None = None
    forwards_per_step: ForwardsPerStep = 1
    workload: str | None = None
    published: tuple[Published, ...] = ()


@dataclass(frozen=True)
class VideoUnits:
    """A row's seconds per step of its batch, and of one video its seconds and joules.

    Each is None where it isn't known: the video of half a pair of experts, energy on a CPU.
    """

    step_s: LongSeconds
    video_s: LongSeconds | None = None
    video_j: Joules | None = None
