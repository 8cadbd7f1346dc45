"""What is measured, and what each is compared with."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from wanrt.manifest.folder import EngineFolder
from wanrt.manifest.schema import AdapterFile, Manifest

__all__ = ["Candidate", "find_baseline"]


@dataclass(frozen=True)
class Candidate:
    """Whatever is measured: an engine, with one of its adapters if it is swappable, or a rival.

    Args:
        engine: the folder; of a rival, that of the engine whose weights it runs with.
        adapters: of a swappable engine, those that are loaded together.
        skipped: why this machine can't run it.
        failed: why nothing can: a file of it is missing, cut short or was written over.
        label: what tables call it.
        again: a second load of a baseline (A/A).
        rival: the rival's name.
    """

    engine: EngineFolder
    adapters: tuple[AdapterFile, ...] = ()
    skipped: str | None = None
    failed: str | None = None
    label: str = ""
    again: bool = False
    rival: str | None = None

    @property
    def folder(self) -> Path:
        """Where the engine is."""
        return self.engine.path

    @property
    def manifest(self) -> Manifest:
        """What the engine is."""
        return self.engine.manifest

    @property
    def rank(self) -> int | None:
        """The adapters' rank in all, or the engine's own."""
        return sum(file.rank for file in self.adapters) or self.manifest.rank

    @property
    def stack(self) -> tuple[tuple[Path, float], ...]:
        """What is swapped in: files with their strengths."""
        return tuple((self.folder / file.file, file.strength) for file in self.adapters)

    def keeps(self, baseline: Candidate | None) -> float | None:
        """Return how much of the effect of a baseline's fine-tune it keeps, where that is known."""
        if baseline is None or self.rival or (self.manifest.mode == "swappable" and not self.stack):
            return None
        stack = self.adapters[0].stack if self.adapters else 0
        return self.manifest.keeps(stack, baseline.manifest)

    @property
    def control(self) -> bool:
        """Whether it should be as fast as its baseline: an A/A, or a second build of `full`."""
        plan = self.manifest.forward.plan
        return self.again or (plan is not None and plan.control and self.rival is None)

    @property
    def kind(self) -> tuple[str, str]:
        """What ratios are taken within: the backend, and where a plan's weights live."""
        plan = self.manifest.forward.plan
        return self.manifest.backend, plan.refit if plan else ""

    @property
    def identity(self) -> str:
        """What identifies the engine when a bench is resumed: its manifest's SHA-256."""
        return sha256(self.manifest.to_json().encode()).hexdigest()

    @property
    def loads_as(self) -> tuple[Path, bool, str | None]:
        """What it takes to load it; a swappable engine is loaded once for all its adapters."""
        return self.folder, self.again, self.rival

    @property
    def runs(self) -> bool:
        """Whether it can be measured, as far as known before anything is loaded."""
        return self.skipped is None and self.failed is None

    @property
    def bytes(self) -> int:
        """How many bytes its engine's files have."""
        return self.engine.bytes

    @property
    def serves_as_baseline(self) -> bool:
        """Whether ratios may be taken to it."""
        return self.manifest.mode == "full" and not self.control and self.rival is None


def find_baseline(candidate: Candidate, candidates: Iterable[Candidate]) -> Candidate | None:
    """Return the `full` engine to compare with: of the same kind, the same dtype if there is one.

    The first such: engines of a full fine-tune come before those that carry the base's own weights.
    `full` engines of other refit kinds are themselves compared with the one of `none`, which tells
    what their kind costs.
    """
    full = [other for other in candidates if other.serves_as_baseline and other.runs]
    alike = [other for other in full if other.kind == candidate.kind]
    same = [other for other in alike if other.manifest.dtype == candidate.manifest.dtype]
    own = next(iter(same or alike), None)
    if own is None or not candidate.serves_as_baseline or own.folder != candidate.folder:
        return own
    unbound = (candidate.kind[0], "none"), candidate.manifest.dtype
    return next((o for o in full if (o.kind, o.manifest.dtype) == unbound), own)
