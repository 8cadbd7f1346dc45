"""The unit of work that a cluster is given, the card it needs, and how it ended."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Card", "CardKind", "Outcome", "Unit"]

CARD = "{card}"
"""Stands in a unit's command and files for the card that runs it."""
BENCH_LIMIT_S = 1800.0
BUILD_LIMIT_S = 6 * 3600.0  # TensorRT's builder may try tactics for hours without a word


@dataclass(frozen=True)
class CardKind:
    """What cards have in common that are taken for the same: as NVML has it.

    Marketing names don't do: an H100 is sold as SXM, PCIe and NVL, which differ in speed. What is
    None isn't asked for.
    """

    name: str
    memory_gib: int | None = None
    power_limit_w: int | None = None

    def __str__(self) -> str:
        facts = [self.name]
        facts += [f"{self.memory_gib} GiB"] if self.memory_gib is not None else []
        facts += [f"{self.power_limit_w} W"] if self.power_limit_w is not None else []
        return ", ".join(facts)

    def fits(self, kind: CardKind) -> bool:
        """Say whether a card of another kind has all that is asked for."""
        asked = (self.memory_gib, kind.memory_gib), (self.power_limit_w, kind.power_limit_w)
        return self.name == kind.name and all(wish in (None, has) for wish, has in asked)


@dataclass(frozen=True)
class Card:
    """One GPU, or a machine's processor, and where it is.

    `id` is the GPU's UUID; of a processor, its host's name. `host` is the machine's.
    """

    id: str
    kind: CardKind
    host: str
    processor: bool = False

    def __str__(self) -> str:
        return f"{self.host}'s processor" if self.processor else f"{self.id} on {self.host}"

    @property
    def file_name(self) -> str:
        """The card in names of files."""
        return re.sub(r"[^\w.-]", "-", self.id)


@dataclass(frozen=True)
class Unit:
    """One process on one card: a whole build, or a whole bench with its own controls.

    Attributes:
        name: unlike any other unit's.
        kind: a machine builds or measures, never both at a time.
        argv: the command; `{card}` in it and in the files becomes the card's `file_name`.
        done: the file whose existence means that there is nothing to do.
        on: the kind of card; None is any machine's processor.
        after: names of units that must be done before.
        cards: on how many different cards it is to run, once each.
        partial: the file that the command writes while it works, renamed to `done` once it has
            ended well; empty if the command makes `done` whole by itself.
        resume: arguments to add where the card has left a partial file.
        limit_s: seconds without a sign of progress after which the card is taken for stuck.
        minutes: what it may take; the longest is started first.
    """

    name: str
    kind: Literal["build", "bench"]
    argv: tuple[str, ...]
    done: Path
    on: CardKind | None = None
    after: tuple[str, ...] = ()
    cards: int = 1
    partial: Path | None = None
    resume: tuple[str, ...] = ()
    limit_s: float = BENCH_LIMIT_S
    minutes: float = 0.0

    def files_done(self) -> list[Path]:
        """Return the files that say it has been done, one for each card."""
        pattern = "*".join(glob.escape(part) for part in self.done.name.split(CARD))
        return sorted(self.done.parent.glob(pattern))

    def done_on(self, card: Card) -> Path:
        """Return the file that says it has been done on a card."""
        return _fill(self.done, card)

    def partial_on(self, card: Card) -> Path | None:
        """Return the file that a card works on."""
        return None if self.partial is None else _fill(self.partial, card)

    def command_on(self, card: Card) -> tuple[str, ...]:
        """Return the command for a card; it resumes what that card has begun."""
        partial = self.partial_on(card)
        resume = self.resume if partial is not None and partial.exists() else ()
        return tuple(part.replace(CARD, card.file_name) for part in (*self.argv, *resume))


@dataclass(frozen=True)
class Outcome:
    """How a unit ended on a card, or why it found none.

    `status` is done or failed; what was done before this run isn't among the outcomes.
    """

    unit: str
    card: Card | None
    status: Literal["done", "failed"]
    reason: str = ""


def _fill(path: Path, card: Card) -> Path:
    return Path(str(path).replace(CARD, card.file_name))
