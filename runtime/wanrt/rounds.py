"""Interleaved rounds: every candidate in random order, then in reverse, so that drift cancels.

The first forwards of each visit are discarded: they pay for caches that another engine filled. The
number of rounds is fixed after a pilot round from the time budget, never by looking at results.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wanrt.candidates import Candidate, Group
from wanrt.engine import Engine
from wanrt.errors import UnsupportedError, WanrtError
from wanrt.inputs import make_inputs
from wanrt.lab import Lab
from wanrt.values import Forward

__all__ = ["MIN_ROUNDS", "Entry", "Schedule", "measure_load"]

MIN_ROUNDS = 3
MAX_ROUNDS = 200

_log = logging.getLogger(__name__)


@dataclass
class Entry:
    """A candidate and what has been measured of it."""

    candidate: Candidate
    forwards: list[Forward] = field(default_factory=list)
    memory_bytes: int | None = None
    skipped: str | None = None
    failed: str | None = None

    @property
    def active(self) -> bool:
        """Whether it is still to be measured."""
        return self.skipped is None and self.failed is None


@dataclass(frozen=True)
class Schedule:
    """How one load's rounds go.

    `deadline` is on the lab's clock; `on_round` hears of the rounds done and of their number.
    `fresh` says that no engine was loaded before, so that what the process grows by is an engine's.
    """

    warmup: int
    rounds: int | None
    seed: int
    deadline: float
    on_round: Callable[[int, int], None]
    fresh: bool = True


@dataclass
class _Loaded:
    engine: Engine
    adapter: Path | None = None


def measure_load(
    lab: Lab, group: Group, entries: Sequence[Entry], load: int, schedule: Schedule
) -> str:
    """Load the entries' engines side by side and measure them; return what was timed.

    A candidate that can't be loaded or run is marked so and the others go on. A round that is
    broken off (Ctrl-C) counts for nobody.
    """
    with ExitStack() as stack:
        loaded: dict[Path, _Loaded] = {}
        for entry in entries:
            if entry.active and entry.candidate.folder not in loaded:
                _load(lab, group, entry, entries, loaded, stack, schedule)
        active = [entry for entry in entries if entry.active]
        if not active:
            return ""
        start = lab.now()
        _run_round(active, loaded, schedule, None, np.random.default_rng([schedule.seed, load]))
        total = schedule.rounds or _fit_rounds(lab.now() - start, schedule.deadline - lab.now())
        _log.debug("load %d: %d rounds", load, total)
        rng = np.random.default_rng([schedule.seed, load, 1])
        for number in range(total):
            active = [entry for entry in entries if entry.active]
            schedule.on_round(number, total)
            _run_round(active, loaded, schedule, (load, number), rng)
        schedule.on_round(total, total)
        return next(iter(loaded.values())).engine.timed


def _fit_rounds(pilot_s: float, left_s: float) -> int:
    fitting = int(left_s / pilot_s) if pilot_s > 0 else MAX_ROUNDS
    return min(max(fitting, MIN_ROUNDS), MAX_ROUNDS)


def _load(
    lab: Lab,
    group: Group,
    entry: Entry,
    entries: Sequence[Entry],
    loaded: dict[Path, _Loaded],
    stack: ExitStack,
    schedule: Schedule,
) -> None:
    """Load an entry's engine and run it once; its memory is what a fresh process grew by."""
    candidate = entry.candidate
    twins = [other for other in entries if other.candidate.folder == candidate.folder]
    try:
        workload = candidate.manifest.workloads[group.name]
        inputs = make_inputs(candidate.manifest, workload, schedule.seed)
        before = lab.private_bytes()
        engine = stack.enter_context(lab.load(candidate.folder, group.name))
        engine.bind(**inputs)
        engine.time_forward()
        after = lab.private_bytes()
        if schedule.fresh and before is not None and after is not None:
            for twin in twins:
                twin.memory_bytes = max(0, after - before)
        loaded[candidate.folder] = _Loaded(engine)
    except UnsupportedError as error:
        for twin in twins:
            twin.skipped = str(error)
    except WanrtError as error:
        for twin in twins:
            twin.failed = str(error)


def _run_round(
    entries: Sequence[Entry],
    loaded: dict[Path, _Loaded],
    schedule: Schedule,
    place: tuple[int, int] | None,
    rng: np.random.Generator,
) -> None:
    """Visit all entries there and back; without a place (a pilot) nothing is recorded."""
    order = [entries[i] for i in rng.permutation(len(entries))]
    seconds: list[tuple[Entry, float]] = []
    for entry in (*order, *reversed(order)):
        if not entry.active:
            continue
        try:
            seconds.append((entry, _visit(entry.candidate, loaded, schedule.warmup)))
        except WanrtError as error:
            entry.failed = str(error)
    if place is not None:
        for entry, value in seconds:
            if entry.active:
                entry.forwards.append(Forward(*place, value))


def _visit(candidate: Candidate, loaded: dict[Path, _Loaded], warmup: int) -> float:
    held = loaded[candidate.folder]
    adapter = candidate.folder / candidate.adapter.file if candidate.adapter else None
    if adapter != held.adapter:
        held.engine.swap(adapter)
        held.adapter = adapter
    for _ in range(warmup):
        held.engine.time_forward()
    return held.engine.time_forward()
