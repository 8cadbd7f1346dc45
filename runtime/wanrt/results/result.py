"""What a bench measured, as it is saved and shown.

A row's forward and tokens per second are the median over loads of each load's median forward. Its
ratio comes from forwards beside each other in time, and so may differ from the quotient of two
rows' forwards by what the machine drifted: the ratio is the one to trust.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import Annotated

from pydantic import Field

from wanrt.machine.describe import Machine
from wanrt.machine.nvml import Clocks
from wanrt.manifest.fields import Count, Positive
from wanrt.manifest.schema import Mode
from wanrt.results.stats import Summary, summarize
from wanrt.results.values import TICK_S, Advice, Energy, Factor, Forward, Probe, Ratio, Seconds
from wanrt.results.video import Video, VideoUnits

__all__ = ["BenchResult", "CandidateResult", "GroupResult"]


@dataclass(frozen=True)
class CandidateResult:
    """One row: an engine, with its adapter if it is swappable, a control or a rival.

    `identity` is the SHA-256 of the engine's manifest, which identifies the engine when a bench is
    resumed. `target_set` names the layers that its adapter sits on, where they were asked for.
    `scheme` is how the checkpoint it was made from is quantised; None if it isn't.
    `error` is what its manifest records of its outputs: the plan's own error where that was
    verified, else the graph's. `keeps` is what it records of the effect of the full fine-tune that
    its baseline is of: 1 is all of it; None where that wasn't measured. `units` follow from the
    result's video.
    """

    engine: str
    identity: str
    label: str
    mode: Mode
    rank: Positive | None
    dtype: str
    random_weights: bool
    verified: bool
    full_finetune: bool
    batch: Positive
    tokens: Positive
    flops: Positive
    target_set: str | None = None
    scheme: str | None = None
    error: Annotated[float, Field(allow_inf_nan=False)] | None = None
    keeps: Annotated[float, Field(allow_inf_nan=False)] | None = None
    baseline: str | None = None
    baseline_dtype: str | None = None
    forwards: tuple[Forward, ...] = ()
    control: bool = False
    rival: str | None = None
    probe: Probe = field(default_factory=Probe)
    clocks: Clocks | None = None
    energy: Energy | None = None
    predicted_s: Seconds | None = None
    moved: dict[str, Count] | None = None
    """Bytes by part, of the kernels that its plan lists; None where no plan could be read."""
    least_moved: dict[str, Count] | None = None
    """Beside them, what the manifest's formula says that a forward must move."""
    ratio: Ratio | None = None
    units: VideoUnits | None = None
    skipped: str | None = None
    failed: str | None = None
    advice: tuple[Advice, ...] = ()

    @property
    def summary(self) -> Summary | None:
        """The forwards in brief, or None if nothing was measured."""
        seconds = [forward.seconds for forward in self.forwards]
        return summarize(seconds) if seconds else None

    @property
    def seconds(self) -> float | None:
        """The typical forward: the median over loads of each load's median."""
        loads: dict[int, list[float]] = {}
        for forward in self.forwards:
            loads.setdefault(forward.load, []).append(forward.seconds)
        return max(TICK_S, median(map(median, loads.values()))) if loads else None

    @property
    def peak_bytes(self) -> int | None:
        """What the device lost to the engine; of a CPU's, its own memory."""
        lost = self.probe.device_bytes
        return self.probe.memory_bytes if lost is None else lost

    @property
    def tokens_per_s(self) -> float | None:
        """Batch x tokens / the typical forward."""
        return self.batch * self.tokens / self.seconds if self.seconds else None

    @property
    def flops_per_s(self) -> float | None:
        """The manifest's flops / the typical forward."""
        return self.flops / self.seconds if self.seconds else None


@dataclass(frozen=True)
class GroupResult:
    """The candidates of one model and workload.

    Args:
        model: its name.
        workload: its name.
        candidates: engines, then controls and rivals.
        loads: how many loads of every engine were planned; 0 before the pilot is over.
        rounds: how many rounds each load has; 0 before the first.
        sets: how many sets of engines are loaded one after the other: 1 if all fit in memory.
        notes: what a reader must know.
        band: what the controls show, as ratios: nothing within it is claimed.
        half_width: what was asked for, of a ratio's 95 % interval.
    """

    model: str
    workload: str
    candidates: tuple[CandidateResult, ...]
    loads: Count = 0
    rounds: Count = 0
    sets: Count = 1
    notes: tuple[str, ...] = ()
    band: tuple[Factor, Factor] | None = None
    half_width: Factor | None = None

    def row_name(self, row: CandidateResult) -> str:
        """Return a row's label, with its dtype where the group has several."""
        several = len({other.dtype for other in self.candidates}) > 1
        return f"{row.label} {row.dtype}" if several else row.label


@dataclass(frozen=True)
class BenchResult:
    """Everything one bench found.

    `broken` holds the engine folders whose manifest couldn't be read, and why: what they are, and
    so which group they would be rows of, isn't known. `video` is what the rows'
    units count, if that was asked for.
    """

    machine: Machine
    options: dict[str, object]
    started: str
    timed: str = ""
    groups: tuple[GroupResult, ...] = ()
    broken: dict[str, str] = field(default_factory=dict)
    advice: tuple[Advice, ...] = ()
    interrupted: bool = False
    device: str | None = None
    video: Video | None = None

    @property
    def rows(self) -> list[CandidateResult]:
        """The candidates of all groups."""
        return [row for group in self.groups for row in group.candidates]

    @property
    def ok(self) -> bool:
        """Whether something was measured and nothing failed."""
        measured = any(row.forwards for row in self.rows)
        return measured and not self.broken and not any(row.failed for row in self.rows)
