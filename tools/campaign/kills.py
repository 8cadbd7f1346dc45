"""kill of every command that writes, at a random time; then the same command once more."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from campaign.children import Outcome, run_command
from campaign.tally import Case
from campaign.workshop import (
    BUILD,
    ENGINE,
    Snapshot,
    Workshop,
    find_leftovers,
    hash_engines,
    snapshot,
)

__all__ = ["Kills", "Kind"]

INPUTS = ("tiny.toml", "lora.safetensors", "a.safetensors", "bench.json")


@dataclass(frozen=True)
class Kind:
    """A command to be killed: its arguments, what is there before, and how often it comes."""

    argv: tuple[str, ...]
    engines: bool
    weight: int


KINDS = {
    "build": Kind(("wanexport", "build", *BUILD), engines=False, weight=4),
    "build --force": Kind(("wanexport", "build", *BUILD, "--force"), engines=True, weight=3),
    "adapter": Kind(
        ("wanexport", "adapter", "lora.safetensors", "--for", ENGINE, "-o", "new.safetensors",
         "--force"), engines=True, weight=1,
    ),
    "report": Kind(
        ("wanrt", "report", "bench.json", "-o", "new.html", "--plots", "plots"),
        engines=True, weight=1,
    ),
    "bench": Kind(
        ("wanrt", "bench", "engines", "--time-budget", "0", "--loads", "2", "--rounds", "2",
         "--json", "new.json", "--csv", "new.csv", "--resume"), engines=True, weight=1,
    ),
}  # fmt: skip


class Kills:
    """Kills commands in one workshop, and knows what each leaves when nobody does."""

    def __init__(self, workshop: Workshop, room: Path) -> None:
        self._workshop = workshop
        self._room = room
        self._whole: dict[str, tuple[float, dict[str, str]]] = {}

    def kill(self, rng: random.Random) -> Case:
        """End one command at a random time, by SIGKILL or SIGTERM, and run it again."""
        name = rng.choices(list(KINDS), [kind.weight for kind in KINDS.values()])[0]
        kind = KINDS[name]
        if name not in self._whole:
            self._whole[name] = self._run_whole(kind)
        seconds, whole = self._whole[name]
        self._lay_out(kind)
        before = self._inputs()
        by = rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM))
        ended = run_command(kind.argv, self._room, max(0.01, rng.random() * seconds), by)
        problems = [*self._check(ended, before)]
        if by == signal.SIGTERM and (leftovers := find_leftovers(self._room)):
            problems.append(f"left after SIGTERM: {', '.join(leftovers)}")
        again = run_command(kind.argv, self._room)
        problems += self._check(again, before)
        if again.code:
            problems.append(f"the second run failed: {again.said[-300:]}")
        if leftovers := find_leftovers(self._room):
            problems.append(f"left: {', '.join(leftovers)}")
        if hash_engines(self._room / "engines") != whole:
            problems.append("the engines differ from those of an undisturbed run")
        return Case("kills", f"{name}, {by.name}", "; ".join(problems), " ".join(kind.argv))

    def _run_whole(self, kind: Kind) -> tuple[float, dict[str, str]]:
        self._lay_out(kind)
        start = os.times().elapsed
        outcome = run_command(kind.argv, self._room)
        if outcome.code:
            raise RuntimeError(outcome.said)
        return os.times().elapsed - start, hash_engines(self._room / "engines")

    def _lay_out(self, kind: Kind) -> None:
        """Fill the room with inputs, and with engines where the command needs them."""
        shutil.rmtree(self._room, ignore_errors=True)
        self._room.mkdir()
        for name in INPUTS:
            shutil.copy2(self._workshop.root / name, self._room / name)
        if kind.engines:
            _link_tree(self._workshop.root / "engines", self._room / "engines")

    def _inputs(self) -> Snapshot:
        return {name: held for name, held in snapshot(self._room).items() if name in self._names()}

    def _names(self) -> set[str]:
        return {str(self._room / name) for name in INPUTS}

    def _check(self, outcome: Outcome, before: Snapshot) -> Iterator[str]:
        if problem := outcome.problem():
            yield f"{problem}: {outcome.said[-300:]}"
        if self._inputs() != before:
            yield "an input was changed"
        visible = [path for path in (self._room / "engines").glob("*") if path.name[0] != "."]
        if visible:
            found = run_command(("wanrt", "verify", "engines", "-q"), self._room)
            if found.code:
                yield f"an engine doesn't verify: {found.said[-300:]}"


def _link_tree(source: Path, target: Path) -> None:
    link: Callable[[str, str], object] = os.link
    shutil.copytree(source, target, copy_function=link)
