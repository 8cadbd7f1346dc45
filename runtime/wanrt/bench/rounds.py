"""One load of some candidates, and its rounds: all in random order, then in reverse.

The first forwards of each visit are discarded: they pay for caches that another engine filled. How
many rounds a load has is fixed by the first one from costs alone, never from results.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wanrt.bench.candidates import Candidate
from wanrt.bench.testbed import Testbed
from wanrt.engine.engine import Runner
from wanrt.errors import UnsupportedError, WanrtError
from wanrt.machine.nvml import Clocks
from wanrt.results.values import Energy, Forward, Probe
from wanrt.terminal.progress import Reporter

__all__ = ["MIN_ROUNDS", "Entry", "LoadSpec", "count_bytes", "measure_load"]

MIN_ROUNDS = 3
MAX_ROUNDS = 20

log = logging.getLogger(__name__)


@dataclass
class Entry:
    """A candidate and what has been measured of it."""

    candidate: Candidate
    forwards: list[Forward] = field(default_factory=list)
    probe: Probe = field(default_factory=Probe)
    clocks: Clocks | None = None
    energy: Energy | None = None
    skipped: str | None = None
    failed: str | None = None

    @property
    def active(self) -> bool:
        """Whether it is still to be measured."""
        return self.skipped is None and self.failed is None


@dataclass(frozen=True)
class LoadSpec:
    """How one load goes.

    Args:
        number: its number; those loaded together share it.
        workload: whose shapes to run.
        rounds: how many; None for as many as take the time of loading, after one that finds out.
        warmup: forwards discarded at each visit.
        seed: of inputs and order.
    """

    number: int
    workload: str
    rounds: int | None
    warmup: int
    seed: int


@dataclass(frozen=True)
class _Visit:
    seconds: float
    enqueue_s: float | None
    energy: Energy | None


@dataclass
class _Held:
    runner: Runner
    stack: tuple[tuple[Path, float], ...] = ()


_Loaded = dict[tuple[Path, bool, str | None], _Held]


def measure_load(
    testbed: Testbed,
    entries: Sequence[Entry],
    spec: LoadSpec,
    on_round: Callable[[], None],
    reporter: Reporter,
) -> tuple[int, str]:
    """Load the entries' engines side by side and measure them.

    A candidate that can't be loaded or run is marked so and the others go on. A round that is
    broken off (Ctrl-C) counts for nobody.

    Returns:
        The number of rounds, and what was timed; 0 and nothing if nothing could be loaded.
    """
    rng = np.random.default_rng([spec.seed, spec.number])
    with ExitStack() as stack:
        start = testbed.now()
        loaded: _Loaded = {}
        load = f"load {spec.number + 1}"
        with reporter.bytes(load, count_bytes(entries)) as piece:
            for index in rng.permutation(len(entries)):
                entry = entries[index]
                if entry.active and entry.candidate.loads_as not in loaded:
                    piece.tell(f"{load}: {entry.candidate.label}")
                    _load(testbed, entry, entries, spec, loaded, stack)
                    piece.advance(entry.candidate.bytes)
        loading_s = testbed.now() - start
        if not loaded:
            return 0, ""
        rounds = spec.rounds
        if rounds is None:
            start = testbed.now()
            _run_round(testbed, entries, loaded, spec, None, rng)
            rounds = _balance(loading_s, testbed.now() - start)
            log.debug("loading takes %.2f s: %d rounds", loading_s, rounds)
        for number in range(rounds):
            _run_round(testbed, entries, loaded, spec, number, rng)
            on_round()
        engines = [held.runner for (_, _, rival), held in loaded.items() if rival is None]
        return rounds, "; ".join(dict.fromkeys(runner.timed for runner in engines))


def count_bytes(entries: Iterable[Entry]) -> int:
    """Return the bytes of the engines that would be loaded for the active entries, each once."""
    active = (entry.candidate for entry in entries if entry.active)
    return sum({one.loads_as: one.bytes for one in active}.values())


def _balance(loading_s: float, round_s: float) -> int:
    """Spend as much on rounds as on loading, about (Kalibera and Jones, section 8)."""
    fitting = math.ceil(loading_s / round_s) if round_s > 0 else MAX_ROUNDS
    return min(max(fitting, MIN_ROUNDS), MAX_ROUNDS)


def _load(
    testbed: Testbed,
    entry: Entry,
    entries: Sequence[Entry],
    spec: LoadSpec,
    loaded: _Loaded,
    stack: ExitStack,
) -> None:
    """Load an entry's engine and run it once, for all entries that share it."""
    key = entry.candidate.loads_as
    alike = [other for other in entries if other.candidate.loads_as == key]
    try:
        runner = stack.enter_context(
            closing(testbed.load(entry.candidate, spec.workload, spec.seed))
        )
        runner.time_forward()
        loaded[key] = _Held(runner)
    except UnsupportedError as error:
        for other in alike:
            other.skipped = str(error)
    except WanrtError as error:
        for other in alike:
            other.failed = str(error)


def _run_round(
    testbed: Testbed,
    entries: Sequence[Entry],
    loaded: _Loaded,
    spec: LoadSpec,
    number: int | None,
    rng: np.random.Generator,
) -> None:
    """Visit all entries there and back; without a number (a pilot) nothing is recorded."""
    active = [entry for entry in entries if entry.active]
    order = [active[i] for i in rng.permutation(len(active))]
    timed: list[tuple[Entry, _Visit]] = []
    for entry in (*order, *reversed(order)):
        if not entry.active:
            continue
        try:
            timed.append((entry, _visit(testbed, entry.candidate, loaded, spec.warmup)))
        except WanrtError as error:
            entry.failed = str(error)
            # half a load would halve what the others' are compared by
            entry.forwards = [f for f in entry.forwards if f.load != spec.number]
        else:
            entry.clocks = _join_clocks(entry.clocks, testbed.clocks())
    if number is None:
        return
    for entry, visit in timed:
        if entry.active:
            forward = Forward(spec.number, number, visit.seconds, visit.enqueue_s)
            entry.forwards.append(forward)
            entry.energy = _join_energy(entry.energy, visit.energy)


def _visit(testbed: Testbed, candidate: Candidate, loaded: _Loaded, warmup: int) -> _Visit:
    """Run an entry's forwards, of which the last one is timed; energy is that of all."""
    held = loaded[candidate.loads_as]
    if candidate.stack != held.stack:
        held.runner.swap(candidate.stack)
        held.stack = candidate.stack
    before = testbed.energy_j()
    for _ in range(warmup):
        held.runner.time_forward()
    seconds, enqueue_s = held.runner.time_forward(), held.runner.enqueue_s
    after = testbed.energy_j()
    energy = None
    if before is not None and after is not None:
        energy = Energy(max(0.0, after - before), warmup + 1)
    return _Visit(seconds, enqueue_s, energy)


def _join_energy(first: Energy | None, second: Energy | None) -> Energy | None:
    if first is None or second is None:
        return first or second
    return Energy(first.joules + second.joules, first.forwards + second.forwards)


def _join_clocks(first: Clocks | None, second: Clocks | None) -> Clocks | None:
    if first is None or second is None:
        return first or second
    return Clocks(
        min(first.min_mhz, second.min_mhz),
        max(first.max_mhz, second.max_mhz),
        tuple(dict.fromkeys((*first.throttled, *second.throttled))),
    )
