"""Which unit runs on which card next. Decides only; nothing is started here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from wanexport.cluster.unit import Card, Outcome, Unit

__all__ = ["Schedule"]

LOSSES = 3
"""A unit whose machine is lost so often isn't tried on another."""


class Schedule:
    """The runs that are left of some units.

    What files say is done is left out. A machine builds or measures, never both: a build beside a
    bench would slow what is measured. Builds come first, for benches wait on them; then the
    longest.
    """

    def __init__(self, units: Sequence[Unit]) -> None:
        self._units = {unit.name: unit for unit in units}
        self._used = {
            unit.name: {path.name for path in unit.files_done()} for unit in units
        }  # names of files, one per card
        self._left = {u.name: max(0, u.cards - len(u.files_done())) for u in units}
        self._lost = dict.fromkeys(self._units, 0)
        self._failed: dict[str, str] = {}

    @property
    def open(self) -> int:
        """How many runs haven't been placed yet."""
        return sum(self._left.values())

    def place(self, free: Sequence[Card], busy: Mapping[Card, Unit]) -> list[tuple[Unit, Card]]:
        """Choose what to start now, and count it as placed."""
        free, running = list(free), dict(busy)
        chosen = []
        for unit in self._ready():
            while self._left[unit.name]:
                fitting = [card for card in free if self._may(unit, card, running)]
                if not fitting:
                    break
                card = max(fitting, key=lambda card: _begun(unit, card))
                free.remove(card)
                running[card] = unit
                self._left[unit.name] -= 1
                self._used[unit.name].add(unit.done_on(card).name)
                chosen.append((unit, card))
        return chosen

    def put_back(self, unit: Unit, card: Card, *, lost: bool) -> Outcome | None:
        """Place a run again whose card is gone, or was never free; a unit that loses many fails."""
        self._left[unit.name] += 1
        self._used[unit.name].discard(unit.done_on(card).name)
        self._lost[unit.name] += lost
        if self._lost[unit.name] < LOSSES:
            return None
        self._left[unit.name] = 0
        return self.fail(unit, card, f"its machine was lost {LOSSES} times, at last {card.host}")

    def fail(self, unit: Unit, card: Card | None, reason: str) -> Outcome:
        """Note that a unit failed; what comes after it fails when it is asked for."""
        self._failed[unit.name] = reason
        return Outcome(unit.name, card, "failed", reason)

    def give_up(self, cards: Sequence[Card], held: Sequence[str] = ()) -> Iterator[Outcome]:
        """Yield why each run that is left can't be placed: the cards there are, those in use."""
        for name, left in self._left.items():
            if left:
                unit = self._units[name]
                kinds = sorted({str(card.kind) for card in cards if not card.processor})
                here = "; ".join([*kinds, *held]) or "no GPU"
                wish = f"{left} more of {unit.on}" if unit.on else "a machine's processor"
                self._left[name] = 0
                yield self.fail(unit, None, f"needs {wish}; usable here: {here}")

    def fail_dependants(self) -> Iterator[Outcome]:
        """Yield the units that need one which failed."""
        for name, unit in self._units.items():
            broken = [need for need in unit.after if need in self._failed]
            if broken and self._left[name] and name not in self._failed:
                self._left[name] = 0
                why = f"needs {broken[0]}, which failed: {self._failed[broken[0]]}"
                yield self.fail(unit, None, why)

    def _ready(self) -> list[Unit]:
        ready = [u for name, u in self._units.items() if self._left[name] and self._is_ready(u)]
        return sorted(ready, key=lambda unit: (unit.kind != "build", -unit.minutes))

    def _is_ready(self, unit: Unit) -> bool:
        needs = [self._units[name] for name in unit.after]
        return all(len(need.files_done()) >= need.cards for need in needs)

    def _may(self, unit: Unit, card: Card, running: Mapping[Card, Unit]) -> bool:
        fits = card.processor if unit.on is None else unit.on.fits(card.kind)
        beside = [(c, u) for c, u in running.items() if c.host == card.host]
        alone = unit.kind == "bench" and card.processor
        return (
            fits
            and unit.done_on(card).name not in self._used[unit.name]
            and all(u.kind == unit.kind for _, u in beside)
            and not (alone and beside)
            and not any(c.processor and u.kind == "bench" for c, u in beside)
        )


def _begun(unit: Unit, card: Card) -> bool:
    partial = unit.partial_on(card)
    return partial is not None and partial.exists()
