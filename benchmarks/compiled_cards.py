"""What one card of several moves in a compiled forward, and LoRA's share of it. No GPU.

    python benchmarks/compiled_cards.py [--work DIR] [--only TEXT]

Builds plans of the stem, one layer and the head of I2V-14B over 1, 2, 4 and 8 cards with the
product's own code (random weights, bf16), reads their kernels as `wanrt explain` does, and writes
benchmarks/results/compiled_cards.{json,md}. A plan takes some 10 s and is removed once it is read.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from compiled_block import CARDS, CROSS, EVERY, SIZES, Case, ask, find_base

from wanexport.compiled import read_block
from wanrt.explain.work import bound_seconds
from wanrt.machine.devices import load_devices
from wanrt.manifest.schema import Mode
from wanrt.terminal.progress import Reporter

RESULTS = Path(__file__).parent / "results"
NUMBERS = (1, 2, 4, 8)
UNMERGED: tuple[tuple[Mode, int], ...] = (("separate", 32), ("swappable", 32), ("swappable", 128))
ENGINES: tuple[tuple[Mode, int | None, str], ...] = (
    ("full", None, CROSS),
    *((mode, rank, targets) for targets in (CROSS, EVERY) for mode, rank in UNMERGED),
)


@dataclass(frozen=True)
class Found:
    """What one card's kernels come to; the bound is of a single card's work, without exchanges."""

    kernels: int
    moved: int
    exchanges: int
    received: int
    bound_s: float


def main() -> None:
    parser = argparse.ArgumentParser(description="Read what cards move in compiled plans.")
    parser.add_argument("--work", type=Path, help="where to build; a temporary folder by default")
    parser.add_argument("--only", default="", help="cases whose text has this; prints, saves not")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = arguments.work or Path(folder)
        found: dict[tuple[Case, int], Found] = {}
        for case, cards in list_cases():
            if arguments.only in f"{case} {cards}":
                found[case, cards] = measure(case, cards, work)
                print(f"{case.size} {case.label} {case.targets} {cards}: {found[case, cards]}",
                      flush=True)  # fmt: skip
    if not arguments.only:
        save(found)


def list_cases() -> Iterator[tuple[Case, int]]:
    """Yield the plans of all tables."""
    for size in SIZES:
        for mode, rank, targets in ENGINES:
            for cards in NUMBERS:
                yield Case(mode, rank, targets, size=size), cards


def measure(case: Case, cards: int, work: Path) -> Found:
    """Build a case's plan for so many cards, and sum what one card's kernels do."""
    request = replace(ask(case), cards=cards)
    kernels = read_block(request, find_base(case, work), Reporter(quiet=True))
    exchanged = [one.kernel.exchanged for one in kernels if one.kernel.exchanged]
    return Found(
        len(kernels),
        sum(one.kernel.bytes for one in kernels),
        len(exchanged),
        sum(exchanged) * (cards - 1) // cards,
        sum(bound_seconds(kernels, load_devices()[CARDS[case.capability]])),
    )


def save(found: Mapping[tuple[Case, int], Found]) -> None:
    """Write all figures, and a table for each size."""
    rows = [
        {"mode": case.mode, "rank": case.rank, "targets": case.targets, "size": case.size,
         "cards": cards, **asdict(one)}
        for (case, cards), one in found.items()
    ]  # fmt: skip
    (RESULTS / "compiled_cards.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = HEAD + "".join(tabulate(size, found) for size in SIZES)
    (RESULTS / "compiled_cards.md").write_text(text)
    print(text)


HEAD = """# One block of I2V-14B over several cards, in compiled plans

`python benchmarks/compiled_cards.py`: stem, one layer and head of wan2.1-i2v-14b-480p in bf16,
built for 1, 2, 4 and 8 cards by TensorRT-RTX 1.7.1.116 without a GPU and read as `wanrt explain`
reads them. GB (10^9 bytes) that one card's kernels move, each operand of a kernel once, exchanges
not counted; of unmerged adapters what they add to full, and the share of full. None of it has run.
"""


def tabulate(size: str, found: Mapping[tuple[Case, int], Found]) -> str:
    """Return a size's table: a row per engine, a column per number of cards."""
    head = " | ".join(f"{cards} card{'s' if cards > 1 else ''}" for cards in NUMBERS)
    lines = [
        f"\n## {size}\n",
        f"| engine | targets | {head} |",
        "|---|---|" + "--:|" * len(NUMBERS),
    ]
    full = {cards: found[Case("full", size=size), cards] for cards in NUMBERS}
    for mode, rank, targets in ENGINES:
        case = Case(mode, rank, targets, size=size)
        ones = {cards: found[case, cards] for cards in NUMBERS}
        if mode == "full":
            cells = [f"{one.moved / 1e9:.2f}" for one in ones.values()]
        else:
            cells = [show(one.moved, full[cards].moved) for cards, one in ones.items()]
        on = "" if mode == "full" else targets
        lines.append(f"| {case.label} | {on} | {' | '.join(cells)} |")
    kernels = " | ".join(str(one.kernels) for one in full.values())
    received = " | ".join(f"{one.received / 1e9:.3f}" for one in full.values())
    bounds = " | ".join(f"{1e3 * one.bound_s:.1f}" for one in full.values())
    lines += [
        f"| kernels of full | | {kernels} |",
        f"| GB that a card receives in full | | {received} |",
        f"| bound of full without exchanges, ms, {CARDS['12.0']} | | {bounds} |",
    ]
    return "\n".join(lines) + "\n"


def show(moved: int, full: int) -> str:
    """Return what an adapter adds, and its share."""
    return f"+{(moved - full) / 1e9:.2f} ({100 * (moved / full - 1):.1f} %)"


if __name__ == "__main__":
    main()
