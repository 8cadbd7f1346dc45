"""Run units on a pool of cards: place them, follow them, put away cards that fail."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from wanexport.cluster.machine import ClusterMachine, choose_versions, find_differences
from wanexport.cluster.schedule import Schedule
from wanexport.cluster.state import StateFolder
from wanexport.cluster.supervise import Event, Job
from wanexport.cluster.unit import Card, Outcome, Unit

__all__ = ["Pool", "PoolEvent", "run_units"]

JOINING_S = 30.0
"""For machines to join, or to come back, when nothing runs and nothing can be placed."""
SILENT_S = 120.0
"""Without a beat of its supervisor a card's machine is taken for dead."""


@dataclass(frozen=True)
class PoolEvent:
    """What happened on a card; `lost` is the end of its machine, or of the way to it."""

    card: Card
    event: Event | Literal["lost"]
    why: str = ""


class Pool(Protocol):
    """Where cards come from."""

    def find_new(self) -> list[ClusterMachine]:
        """Return machines that weren't returned before."""

    def open(self, machine: ClusterMachine) -> list[Card]:
        """Reserve a machine's cards and return those that were got."""

    def start(self, card: Card, job: Job) -> None:
        """Start a job on a card that is free."""

    def wait(self, seconds: float) -> list[PoolEvent]:
        """Return what has happened, at the latest after some time."""

    def drop(self, card: Card) -> None:
        """End what runs on a card and let go of it."""


@dataclass
class _Run:
    """The state of one call."""

    schedule: Schedule
    pool: Pool
    state: StateFolder
    log: Callable[[str], None]
    clock: Callable[[], float]
    pinned: Mapping[str, str]
    cards: list[Card] = field(default_factory=list)
    busy: dict[Card, Unit] = field(default_factory=dict)
    heard: dict[Card, float] = field(default_factory=dict)
    said: dict[Card, str] = field(default_factory=dict)
    held: list[str] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)

    def join(self) -> None:
        """Take the cards of new machines, or say why not."""
        machines = self.pool.find_new()
        for machine in [m for m in machines if not m.shared]:
            self.log(f"{machine.host} isn't used: it doesn't see {self.state.path}; mount it there")
        machines = [machine for machine in machines if machine.shared]
        if not machines:
            return
        versions = self.state.versions
        if versions is None or any(versions.get(k) != v for k, v in self.pinned.items()):
            versions = choose_versions(machines, self.pinned)
            self.state.keep_versions(versions)
        for machine in machines:
            if different := find_differences(machine, versions):
                self.log(f"{machine.host} isn't used: it has {'; '.join(different)}")
                continue
            self.cards += [card for card in self.pool.open(machine) if self._may_use(card)]

    def _may_use(self, card: Card) -> bool:
        if card in self.cards:
            return False  # two of Ray's nodes on one machine see its processor
        if path := self.state.quarantined().get(card.id):
            self.log(f"{card} isn't used: it is in quarantine; remove {path} once it is well")
            self.pool.drop(card)
            return False
        return True

    def place(self) -> None:
        """Start all that can be started."""
        free = [card for card in self.cards if card not in self.busy]
        for unit, card in self.schedule.place(free, self.busy):
            done, partial = unit.done_on(card), unit.partial_on(card)
            job = Job(
                argv=unit.command_on(card),
                card=card.file_name,
                log=str(self.state.log(unit, card)),
                done=str(done),
                partial=None if partial is None else str(partial),
                limit_s=unit.limit_s,
                gpu=not card.processor,
            )
            self.busy[card], self.heard[card] = unit, self.clock()
            self.log(f"{unit.name}: started on {card}")
            self.pool.start(card, job)

    def follow(self, seconds: float) -> None:
        """Hear what the cards have to say; one that says nothing at all is lost."""
        for what in self.pool.wait(seconds):
            self.heard[what.card] = self.clock()
            if what.card not in self.busy:
                continue
            if what.event == "lost":
                self._lose(what.card, what.why)
            else:
                self._hear(what.card, what.event)
        for card in [c for c in self.busy if self.clock() - self.heard[c] > SILENT_S]:
            self._lose(card, f"no word for {SILENT_S:.0f} s")

    def _hear(self, card: Card, event: Event) -> None:
        unit = self.busy[card]
        if event.kind in ("line", "beat"):
            if event.text and event.text != self.said.get(card):
                self.log(f"{unit.name}: {event.text}")
            self.said[card] = event.text or self.said.get(card, "")
            return
        del self.busy[card]
        if event.kind == "done":
            self.log(f"{unit.name}: done on {card}")
            self.outcomes.append(Outcome(unit.name, card, "done"))
            return
        if event.kind == "failed":
            self._fail(self.schedule.fail(unit, card, event.text))
            return
        self._let_go(card)
        if event.kind == "held":  # by others, so the unit never ran and the card may be well
            self.log(f"{card} isn't used in this run: {event.text}")
            self.held.append(f"{card}: {event.text}")
            self.schedule.put_back(unit, card, lost=False)
            return
        path = self.state.quarantine(card, unit, event.text)
        self.log(f"{card} isn't used again: {event.text}; remove {path} once it is well")
        self._fail(self.schedule.fail(unit, card, event.text))

    def _lose(self, card: Card, why: str) -> None:
        unit = self.busy.pop(card)
        self._let_go(card)
        self.log(f"{unit.name}: {card} is lost ({why}), so it goes on elsewhere")
        if failed := self.schedule.put_back(unit, card, lost=True):
            self._fail(failed)

    def _let_go(self, card: Card) -> None:
        self.cards.remove(card)
        self.pool.drop(card)

    def _fail(self, outcome: Outcome) -> None:
        self.log(f"{outcome.unit}: failed: {outcome.reason}")
        self.outcomes.append(outcome)


def run_units(
    units: Sequence[Unit],
    pool: Pool,
    state: Path,
    *,
    pinned: Mapping[str, str] | None = None,
    log: Callable[[str], None] = lambda _: None,
    clock: Callable[[], float] = time.monotonic,
    joining_s: float = JOINING_S,
) -> list[Outcome]:
    """Run what files don't say is done, and return how each run of a unit ended.

    A unit that fails doesn't stop the others. A dead machine's units go on elsewhere. A card that
    made no progress for its unit's `limit_s` fails that unit, and is put into quarantine. What
    this process leaves undone, the next one does: the state is in files.

    Args:
        units: in any order.
        pool: where cards come from.
        state: a folder on a path that all machines share.
        pinned: versions that count, by name, instead of those of the largest group of machines.
        log: is given a line for whatever happens.
        clock: seconds.
        joining_s: how long to wait for machines when nothing runs and nothing can be placed.

    Raises:
        ConfigError: no machine has the versions that are pinned.
    """
    run = _Run(Schedule(units), pool, StateFolder(state), log, clock, pinned or {})
    idle_since = clock()
    while run.schedule.open or run.busy:
        run.join()
        run.place()
        for failed in run.schedule.fail_dependants():
            run._fail(failed)
        if run.busy:
            idle_since = clock()
        elif clock() - idle_since >= joining_s:
            for failed in run.schedule.give_up(run.cards, run.held):
                run._fail(failed)
        run.follow(1.0)
    return run.outcomes
