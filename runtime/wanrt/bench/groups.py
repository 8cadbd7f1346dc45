"""From engine folders to groups of candidates: one of each model and workload, with its baselines.

Every baseline comes with a control, the same engine loaded a second time (A/A), and with the rivals
asked for, which take its weights.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wanrt.bench.candidates import Candidate, find_baseline
from wanrt.bench.stale import find_stale
from wanrt.errors import ResultsError, UnsupportedError, WanrtError
from wanrt.manifest.folder import BrokenFolder, EngineFolder, OpenedFolder
from wanrt.manifest.schema import Manifest, Workload
from wanrt.results.values import Advice
from wanrt.results.workloads import load_workloads

__all__ = ["BenchPlan", "Group", "plan_bench"]

USUAL = {"expert": "none", "prefuse": "none", "quantization": "none", "layout": "one", "cards": "1"}
HASH = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class Group:
    """The candidates of one model and workload."""

    model: str
    name: str
    workload: Workload
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...] = ()


@dataclass
class BenchPlan:
    """What a bench will measure, which folders are broken, and which engines are stale.

    `broken` holds folders whose manifest can't be read: nobody knows in which group they belong.
    """

    groups: list[Group] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    stale: list[Advice] = field(default_factory=list)


def plan_bench(
    folders: Iterable[OpenedFolder],
    check: Callable[[EngineFolder], None],
    workload: str | None,
    rivals: Sequence[str] = (),
) -> BenchPlan:
    """Check every engine before any runs, and group them by model and workload.

    Raises:
        ResultsError: there is nothing to bench, or no engine has the workload asked for.
    """
    plan = BenchPlan()
    folders = list(folders)
    groups: dict[tuple[str, str], list[Candidate]] = {}
    for folder in folders:
        if isinstance(folder, BrokenFolder):
            plan.broken[str(folder.path)] = _explain(folder.error)
            continue
        stale = find_stale(folder)
        plan.stale += [stale] if stale else []
        skipped = failed = None
        try:
            check(folder)
        except UnsupportedError as error:
            skipped = str(error)
        except WanrtError as error:
            failed = str(error) if stale else _explain(error)  # the warning's hint says more
        manifest = folder.manifest
        for name in manifest.workloads:
            if workload in (None, name):
                candidates = groups.setdefault((_find_model(manifest), name), [])
                candidates += _candidates(folder, skipped, failed)
    if not groups and not plan.broken:
        opened = [folder for folder in folders if isinstance(folder, EngineFolder)]
        sizes = dict.fromkeys(name for folder in opened for name in folder.manifest.workloads)
        raise ResultsError(
            f"no engine has the workload {workload!r}",
            f"sizes of these engines: {', '.join(sizes)}; named: {', '.join(load_workloads())}",
        )
    for (model, name), members in sorted(groups.items()):
        ordered = _labelled(sorted(members, key=_order))
        added = _controls_and_rivals(ordered, rivals)
        notes = _notes(ordered, rivals)
        shapes = ordered[0].manifest.workloads[name]
        plan.groups.append(Group(model, name, shapes, (*ordered, *added), notes))
    return plan


def _find_model(manifest: Manifest) -> str:
    """Return what an engine is compared within: its model, and whatever of it isn't as usual.

    Results go by model and workload, so what must not be compared has another name.
    """
    usual = USUAL | {"model": manifest.model}
    told = sorted((k, v) for k, v in manifest.compared_by.items() if usual.get(k) != v)
    unusual = [f"{name} {value[:12] if HASH.fullmatch(value) else value}" for name, value in told]
    return " ".join([manifest.model, *unusual])


def _baselines(candidates: Sequence[Candidate]) -> list[Candidate]:
    taken = [find_baseline(candidate, candidates) for candidate in candidates]
    return [candidate for candidate in candidates if candidate in taken]


def _controls_and_rivals(
    candidates: Sequence[Candidate], rivals: Sequence[str]
) -> Iterable[Candidate]:
    beside: set[str] = set()
    for full in _baselines(candidates):
        yield replace(full, again=True, label=f"{full.label} A/A")
        if full.manifest.dtype not in beside:
            yield from (replace(full, rival=name, label=name) for name in rivals)
        beside.add(full.manifest.dtype)


def _notes(candidates: Sequence[Candidate], rivals: Sequence[str]) -> tuple[str, ...]:
    taken = _baselines(candidates)
    full = [c for c in candidates if c.serves_as_baseline and c.runs]
    notes = []
    passed = [
        c for c in full if (o := find_baseline(c, candidates)) and o is not c and o.kind == c.kind
    ]
    if passed:
        names = " and ".join(candidate.label for candidate in taken)
        why = "a fine-tune's before the base's own weights, then by name"
        notes.append(
            f"{len(full)} full engines: ratios are to {names}, the first of its dtype ({why})"
        )
    if rivals and not taken:
        notes.append(f"no `full` engine whose weights {', '.join(rivals)} could run with")
    return tuple(notes)


def _candidates(engine: EngineFolder, skipped: str | None, failed: str | None) -> list[Candidate]:
    stacks = engine.manifest.stacks or ((),)
    return [Candidate(engine, adapters, skipped, failed) for adapters in stacks]


def _explain(error: WanrtError) -> str:
    return f"{error} ({error.hint})" if error.hint else str(error)


def _order(candidate: Candidate) -> tuple[int, str, bool, int, str]:
    modes = ("full", "merged", "separate", "swappable")
    manifest = candidate.manifest
    base = not manifest.full_finetune
    return modes.index(manifest.mode), manifest.dtype, base, candidate.rank or 0, manifest.name


def _labelled(candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
    """Name candidates by mode and rank; where that is ambiguous, also by what else tells them."""
    alike: dict[tuple[str, str], list[int]] = {}
    for i, candidate in enumerate(candidates):
        alike.setdefault((_short(candidate), candidate.manifest.dtype), []).append(i)
    labels = [""] * len(candidates)
    for (short, _), members in alike.items():
        tails = _tails([_long(candidates[i]) for i in members])
        for i, tail in zip(members, tails, strict=True):
            labels[i] = f"{short} {tail}".rstrip()
    return tuple(replace(c, label=text) for c, text in zip(candidates, labels, strict=True))


def _tails(names: Sequence[str]) -> list[str]:
    """Drop the words that all names begin or end with; of one name, all of them."""
    words = [re.split("[- ]", name) for name in names]
    for _ in range(2):
        columns = enumerate(zip(*words, strict=False))
        shortest = min(map(len, words))
        common = next((i for i, column in columns if len(set(column)) > 1), shortest)
        words = [rest[common:][::-1] for rest in words]
    return ["-".join(rest) for rest in words]


def _short(candidate: Candidate) -> str:
    rank, targets = candidate.rank, candidate.manifest.target_set
    usual = targets in (None, "cross-attention")
    words = (candidate.manifest.mode, f"r{rank}" if rank else "", "" if usual else targets)
    return " ".join(filter(None, words))


def _long(candidate: Candidate) -> str:
    adapters = [Path(file.file).stem for file in candidate.adapters]
    return " ".join([candidate.folder.parent.name, candidate.folder.name, *adapters])
