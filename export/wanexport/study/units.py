"""The processes of a study, as units of work: extracting, building, and then measuring.

State is in files below one folder:
    adapters/LABEL/extract.json  beside the files of every rank, by `wanexport extract`
    adapters/LABEL-rR.safetensors  a name for one of them, as engines are called by it
    engines/NAME/  engines, with the weights that they share
    engines/CELL.json  what `wanexport build --json` says of a cell's engine
    results/GROUP@CARD.json  what `wanrt bench --json` measured; .GROUP@CARD.json until it is done
    run/  logs, cards in quarantine, the versions that count
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from wanexport.build.request import RANDOM
from wanexport.checkpoint.open import is_partial
from wanexport.checkpoint.read import read_checkpoint
from wanexport.cluster.unit import CARD, CardKind, Unit
from wanexport.study.cells import AdapterChoice, Cell, Group
from wanexport.study.file import Bench, Study
from wanrt.manifest.read import MANIFEST_NAME
from wanrt.manifest.schema import Mode

__all__ = [
    "Built", "Places", "bench_unit", "build_unit", "extract_units", "list_built", "read_built",
]  # fmt: skip

WANEXPORT = (sys.executable, "-P", "-m", "wanexport")
WANRT = (sys.executable, "-P", "-m", "wanrt")


@dataclass(frozen=True)
class Built:
    """A cell's engine as its build left it.

    Args:
        folders: the engine's, and that of the control which a TensorRT baseline has.
        seconds: what the build took.
    """

    folders: tuple[Path, ...]
    seconds: float


@dataclass(frozen=True)
class Places:
    """Where a study keeps what, below one absolute folder."""

    out: Path

    @property
    def engines(self) -> Path:
        """Of engine folders."""
        return self.out / "engines"

    @property
    def run(self) -> Path:
        """Of logs and what else a run leaves."""
        return self.out / "run"

    @property
    def record(self) -> Path:
        """What the study is and has come to, which `wanrt report` reads."""
        return self.out / "study.json"

    def built(self, cell: Cell) -> Path:
        """What a build says of a cell."""
        return self.engines / f"{cell.name}.json"

    def extracted(self, adapter: AdapterChoice) -> Path:
        """The folder of an adapter's extraction: one for all ranks of a set of layers."""
        label = adapter.label.partition("-")[2] or adapter.set_name
        return self.out / "adapters" / label

    def adapter(self, adapter: AdapterChoice) -> Path:
        """The file that a build is given, whose name the engine's has in it."""
        folder = self.extracted(adapter)
        return folder.parent / f"{folder.name}-r{adapter.rank}.safetensors"

    def result(self, group: Group, *, done: bool = True) -> Path:
        """A group's results on a card, or what there is of them until they are done."""
        return self.out / "results" / f"{'' if done else '.'}{group.name}@{CARD}.json"


def extract_units(study: Study, groups: Sequence[Group], places: Places) -> list[Unit]:
    """Return an extraction per set of layers, for all its ranks."""
    assert study.finetuned is not None
    ranks: dict[Path, list[AdapterChoice]] = {}
    for adapter in dict.fromkeys(adapter for group in groups for adapter in group.adapters):
        ranks.setdefault(places.extracted(adapter), []).append(adapter)
    return [
        Unit(
            name=f"extract {folder.name}",
            kind="build",
            argv=(
                *WANEXPORT, "extract", "--base", study.base, "--finetuned", study.finetuned,
                "--rank", ",".join(f"{one.rank}" for one in adapters),
                *_repeat("--targets", adapters[0].targets),
                *(("--expert", study.expert) if study.expert else ()),
                "-o", str(folder),
            ),
            done=folder / "extract.json",
        )
        for folder, adapters in ranks.items()
    ]  # fmt: skip


def build_unit(
    study: Study, cell: Cell, places: Places, on: CardKind | None, minutes: float
) -> Unit:
    """Return the build of a cell; one of TensorRT times kernels on the card that will run them."""
    config, adapter = cell.request.config, cell.adapter
    size, done = config.size, places.built(cell)
    argv = [
        *WANEXPORT, "build", "--config", study.config, *_base(study, cell),
        "--dtype", config.dtype, "--width", size.width, "--height", size.height,
        "--frames", size.frames, "--batch", size.batch,
        "--backend", cell.request.backend, "--quantize", cell.quantize,
        "--verify", "diffusers" if study.verify else "none",
        *(("--expert", study.expert) if study.expert else ()),
        *_repeat("--prefuse", study.prefuse),
    ]  # fmt: skip
    if study.finetuned is not None:  # beside it, a build says what an engine keeps of it
        argv += ["--finetuned", study.finetuned, "--mode", "full"]
    if cell.mode != "full" or study.finetuned is None:
        argv += ["--mode", cell.mode]
    after: tuple[str, ...] = ()
    if adapter is not None and study.adapters.source == "random":
        argv += ["--rank", adapter.rank, *_repeat("--targets", adapter.targets)]
    elif adapter is not None:
        argv += ["--lora", adapter.file or places.adapter(adapter)]
    if adapter is not None and study.adapters.source == "extract":
        after = (f"extract {places.extracted(adapter).name}",)
    return Unit(
        name=cell.name,
        kind="build",
        argv=(*(str(part) for part in argv), "--out", str(places.engines), "--json", str(done)),
        done=done,
        on=on if cell.request.backend == "tensorrt" else None,
        after=after,
        minutes=minutes,
    )


def _base(study: Study, cell: Cell) -> tuple[str, ...]:
    """Name the base, unless the engine is of a whole fine-tune alone, where a build refuses it."""
    if cell.mode == "full" and study.finetuned is not None and study.base != RANDOM:
        trained = read_checkpoint(study.finetuned)
        if not is_partial(trained, cell.request.config.architecture):
            return ()
    return ("--base", study.base)


def bench_unit(
    bench: Bench, group: Group, engines: Iterable[Path], places: Places, on: CardKind | None
) -> Unit:
    """Return the bench of a group's engines, which are there."""
    partial = places.result(group, done=False)
    flags: Mapping[str, object] = {
        "--device": bench.device,
        "--json": partial,
        "--time-budget": bench.time_budget_s,
        "--half-width": f"{100 * bench.half_width:g}%",
        "--warmup": bench.warmup,
        "--threads": bench.threads,
        "--loads": bench.loads,
        "--rounds": bench.rounds,
        "--steps": bench.steps,
        "--workload": bench.workload,
    }
    given = [str(part) for flag, v in flags.items() if v is not None for part in (flag, v)]
    return Unit(
        name=f"bench {group.name}",
        kind="bench",
        argv=(
            *WANRT, "bench", *map(str, engines), *given, *(("--cfg",) if bench.cfg else ()),
        ),
        done=places.result(group),
        partial=partial,
        resume=("--resume",),
        on=on,
        cards=bench.cards,
        limit_s=60 * bench.limit_minutes,
    )  # fmt: skip


def read_built(unit: Unit, mode: Mode) -> Built | None:
    """Return what the build of a unit says of its engine; None if it isn't there any more.

    Of another command than the unit's it isn't either: the study's file has changed since.
    """
    try:
        value = json.loads(unit.done.read_text(encoding="utf-8"))
        folders = tuple(Path(e["folder"]) for e in value["engines"] if e["mode"] == mode)
        same = value["argv"] == list(unit.argv[len(WANEXPORT) :])
        seconds = float(value["seconds"])
    except (OSError, ValueError, LookupError, TypeError):
        return None
    there = folders and all((folder / MANIFEST_NAME).is_file() for folder in folders)
    return Built(folders, seconds) if same and there else None


def list_built(study: Study, groups: Sequence[Group], places: Places) -> set[str]:
    """Return the names of the cells whose engines are there."""
    cells = (cell for group in groups for cell in group.cells)
    return {
        cell.name
        for cell in cells
        if read_built(build_unit(study, cell, places, None, 0.0), cell.mode) is not None
    }


def _repeat(flag: str, values: Iterable[str]) -> list[str]:
    return [part for value in values for part in (flag, value)]
