"""A study from its state in files to its end: what is missing is made, what failed is a reason."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from wanexport.cluster.machine import describe_this, find_differences
from wanexport.cluster.run import Pool, run_units
from wanexport.cluster.state import StateFolder
from wanexport.cluster.unit import CARD, CardKind, Outcome, Unit
from wanexport.errors import ConfigError
from wanexport.study.cells import Group
from wanexport.study.file import Bench, Study
from wanexport.study.forecast import forecast_build
from wanexport.study.units import (
    Built,
    Places,
    bench_unit,
    build_unit,
    extract_units,
    read_built,
)
from wanrt.manifest.read import read_manifest_only
from wanrt.storage.strict_json import parse_json

__all__ = ["Failure", "Progress", "begin_here", "run_study", "units_of_builds"]

OpenPool = Callable[[], AbstractContextManager[Pool]]


@dataclass(frozen=True)
class Failure:
    """Why a unit isn't done, and the log that says more; None if it never ran."""

    reason: str
    log: Path | None


@dataclass
class Progress:
    """What a study has come to, so far.

    Args:
        builds: each cell's unit, by the cell's name.
        built: what a build says of each cell's engine, by the cell's name.
        failures: of units, by their names.
        results: files of a group's results, by its name; hidden ones aren't done.
    """

    builds: Mapping[str, Unit]
    built: dict[str, Built] = field(default_factory=dict)
    failures: dict[str, Failure] = field(default_factory=dict)
    results: dict[str, list[Path]] = field(default_factory=dict)


def begin_here(places: Places) -> CardKind | None:
    """Return this machine's kind of GPU, if it has one, for a study that is run here alone.

    Raises:
        ConfigError: the study was begun with other versions.
    """
    machine = describe_this(str(places.out))
    begun = StateFolder(places.run).versions
    if begun is not None and (different := find_differences(machine, begun)):
        raise ConfigError(
            f"{places.out} was begun with other versions: this machine has {'; '.join(different)}",
            f"go on with those, choose another --out, or remove {places.run / 'versions.json'} to "
            "mix them",
        )
    return machine.gpus[0].kind if machine.gpus else None


def units_of_builds(
    study: Study, groups: Sequence[Group], places: Places, on: CardKind | None
) -> dict[str, Unit]:
    """Return each cell's unit by the cell's name."""
    return {
        cell.name: build_unit(study, cell, places, on, forecast_build(cell).seconds / 60)
        for group in groups
        for cell in group.cells
    }


def run_study(
    study: Study,
    groups: Sequence[Group],
    places: Places,
    open_pool: OpenPool,
    *,
    on: CardKind | None,
    joining_s: float,
    log: Callable[[str], None],
    on_change: Callable[[Progress], None],
) -> Progress:
    """Build what isn't built and measure what isn't measured; what fails doesn't stop the rest.

    Args:
        study: its file.
        groups: its cells.
        places: its folder.
        open_pool: where cards come from; opened once for building and once for measuring.
        on: the kind of GPU that it is measured on; None is a processor.
        joining_s: how long to wait for machines that may join.
        log: is given a line for whatever happens.
        on_change: is called after each of the two.
    """
    builds = units_of_builds(study, groups, places, on)
    progress = Progress(builds)
    extractions = extract_units(study, groups, places) if _extracts(study) else []
    for folder in (places.engines, places.out / "results", places.out / "adapters"):
        folder.mkdir(parents=True, exist_ok=True)
    if extractions:
        _name_adapters(groups, places)
    cells = [cell for group in groups for cell in group.cells]
    for cell in cells:
        if read_built(builds[cell.name], cell.mode) is None:
            builds[cell.name].done.unlink(missing_ok=True)

    def run(units: Sequence[Unit]) -> None:
        if all(len(unit.files_done()) >= unit.cards for unit in units):
            return
        with open_pool() as pool:
            outcomes = run_units(units, pool, places.run, log=log, joining_s=joining_s)
        _note(progress, outcomes, {unit.name: unit for unit in units}, places)

    run([*extractions, *builds.values()])
    for cell in cells:
        if (found := read_built(builds[cell.name], cell.mode)) is not None:
            progress.built[cell.name] = found
    on_change(progress)
    run(list(_plan_benches(study, groups, places, progress, on)))
    for group in groups:
        progress.results[group.name] = find_results(places, group)
    on_change(progress)
    return progress


def _plan_benches(
    study: Study, groups: Sequence[Group], places: Places, progress: Progress, on: CardKind | None
) -> Iterator[Unit]:
    """Yield the bench of each group whose baseline is built; others are noted as failed."""
    for group in groups:
        baseline = group.cells[0].name
        if baseline not in progress.built:
            reason = f"{baseline}, which every ratio is to, isn't built"
            progress.failures[f"bench {group.name}"] = Failure(reason, None)
            continue
        engines = _engines(group, progress)
        _set_aside(find_results(places, group), engines, study.bench)
        yield bench_unit(study.bench, group, engines, places, on)


def find_results(places: Places, group: Group) -> list[Path]:
    """Return the files of a group's results, and of cards that have no others, what there is."""
    done, partial = (
        sorted(p.parent.glob(p.name.replace(CARD, "*")))
        for p in (places.result(group), places.result(group, done=False))
    )
    names = {path.name for path in done}
    return done + [path for path in partial if path.name.removeprefix(".") not in names]


def _extracts(study: Study) -> bool:
    return study.adapters.source == "extract"


def _name_adapters(groups: Sequence[Group], places: Places) -> None:
    """Give every file of an extraction a name that tells layers and rank: engines bear it."""
    for adapter in dict.fromkeys(adapter for group in groups for adapter in group.adapters):
        link, folder = places.adapter(adapter), places.extracted(adapter)
        if not link.is_symlink():
            link.symlink_to(Path(folder.name, f"rank-{adapter.rank}.safetensors"))


def _note(
    progress: Progress, outcomes: Sequence[Outcome], units: Mapping[str, Unit], places: Places
) -> None:
    state = StateFolder(places.run)
    for outcome in outcomes:
        if outcome.status == "failed":
            log = state.log(units[outcome.unit], outcome.card) if outcome.card else None
            progress.failures[outcome.unit] = Failure(outcome.reason, log)


def _engines(group: Group, progress: Progress) -> list[Path]:
    """Return the folders of a group's engines that are built."""
    found = [progress.built[cell.name] for cell in group.cells if cell.name in progress.built]
    return [folder for one in found for folder in one.folders]


def _set_aside(results: Iterable[Path], engines: Sequence[Path], bench: Bench) -> None:
    """Put away results of other engines, or measured in another way; they are never deleted."""
    manifests = (read_manifest_only(folder) for folder in engines)
    wanted = {hashlib.sha256(manifest.to_json().encode()).hexdigest() for manifest in manifests}
    options = bench.model_dump(
        include={"time_budget_s", "half_width", "loads", "rounds", "warmup", "threads", "device"}
    )
    for path in results:
        if not _holds(path, wanted, options):
            old = path.parent / "superseded"
            old.mkdir(exist_ok=True)
            names = (old / f"{path.stem.lstrip('.')}-{n}.json" for n in count(1))
            path.replace(next(name for name in names if not name.exists()))


def _holds(path: Path, engines: set[str], options: Mapping[str, object]) -> bool:
    """Tell whether results are of these engines, and of a bench with these options."""
    try:
        value: Any = parse_json(path.read_text(encoding="utf-8"))
        rows = {row["identity"] for row in value["results"] if row["rival"] is None}
        asked = value["context"]["options"]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return rows == engines and all(asked.get(name) == want for name, want in options.items())
