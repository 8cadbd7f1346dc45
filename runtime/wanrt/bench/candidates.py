"""From folders to candidates: which engines there are, in which groups, against which baseline.

Every baseline comes with a control, the same engine loaded a second time (A/A), and with the rivals
asked for, which take its weights.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from wanrt.bench.discover import find_engines
from wanrt.bench.stale import find_stale
from wanrt.errors import ManifestError, ResultsError, UnsupportedError, WanrtError
from wanrt.manifest.read import read_manifest, read_manifest_only
from wanrt.manifest.schema import AdapterFile, Manifest, Workload
from wanrt.results.values import Advice

__all__ = ["BenchPlan", "Candidate", "Group", "find_baseline", "plan_bench"]


@dataclass(frozen=True)
class Candidate:
    """Whatever is measured: an engine, with one of its adapters if it is swappable, or a rival.

    Args:
        folder: the engine's; of a rival, that of the engine whose weights it runs with.
        manifest: the folder's.
        adapter: which of a swappable engine's.
        skipped: why this machine can't run it.
        failed: why nothing can: a file of it is missing, cut short or was written over.
        label: what tables call it.
        again: a second load of a baseline (A/A).
        rival: the rival's name.
    """

    folder: Path
    manifest: Manifest
    adapter: AdapterFile | None = None
    skipped: str | None = None
    failed: str | None = None
    label: str = ""
    again: bool = False
    rival: str | None = None

    @property
    def rank(self) -> int | None:
        """The adapter's rank, or the engine's own."""
        return self.adapter.rank if self.adapter else self.manifest.rank

    @property
    def control(self) -> bool:
        """Whether it should be as fast as its baseline: an A/A, or a second build of `full`."""
        plan = self.manifest.forward.plan
        return self.again or (plan is not None and plan.control and self.rival is None)

    @property
    def kind(self) -> tuple[str, str]:
        """What ratios are taken within: the backend, and where a plan's weights live."""
        plan = self.manifest.forward.plan
        return self.manifest.backend, plan.refit if plan else ""

    @property
    def identity(self) -> str:
        """What a bench that goes on knows the engine by: its manifest's SHA-256."""
        return sha256(self.manifest.to_json().encode()).hexdigest()

    @property
    def loads_as(self) -> tuple[Path, bool, str | None]:
        """What it takes to load it; a swappable engine is loaded once for all its adapters."""
        return self.folder, self.again, self.rival

    @property
    def runs(self) -> bool:
        """Whether it could be measured, as far as is known before anything is loaded."""
        return self.skipped is None and self.failed is None

    @property
    def bytes(self) -> int:
        """How many bytes its engine's files have."""
        return sum(file.bytes for file in self.manifest.files)

    @property
    def serves_as_baseline(self) -> bool:
        """Whether ratios may be taken to it."""
        return self.manifest.mode == "full" and not self.control and self.rival is None


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
    """What a bench will measure, what it can't place, and what isn't what it was made from.

    `broken` holds folders whose manifest can't be read: nobody knows in which group they belong.
    """

    groups: list[Group] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    stale: list[Advice] = field(default_factory=list)


def plan_bench(
    paths: Iterable[Path],
    check: Callable[[Path], Manifest],
    workload: str | None,
    rivals: Sequence[str] = (),
) -> BenchPlan:
    """Check every engine before any runs, and group them by model and workload.

    Raises:
        ResultsError: there is nothing to bench, or no engine has the workload asked for.
    """
    plan = BenchPlan()
    groups: dict[tuple[str, str, str], list[Candidate]] = {}
    for folder in find_engines(paths):
        stale = find_stale(folder)
        plan.stale += [stale] if stale else []
        skipped = failed = None
        try:
            manifest = check(folder)
        except UnsupportedError as error:
            skipped = str(error)
            manifest = read_manifest(folder)
        except WanrtError as error:
            hint = "" if stale else error.hint  # the warning's says more
            failed = f"{error} ({hint})" if hint else str(error)
            try:
                manifest = read_manifest_only(folder)
            except ManifestError:
                plan.broken[str(folder)] = failed
                continue
        for name in manifest.workloads:
            if workload in (None, name):
                compared_by = json.dumps(manifest.compared_by, sort_keys=True)
                candidates = groups.setdefault((manifest.model, name, compared_by), [])
                candidates += _candidates(folder, manifest, skipped, failed)
    if not groups and not plan.broken:
        raise ResultsError(f"no engine has the workload {workload!r}")
    for (model, name, _), members in sorted(groups.items()):
        ordered = _labelled(sorted(members, key=_order))
        added = _controls_and_rivals(ordered, rivals)
        notes = _notes(ordered, rivals)
        shapes = ordered[0].manifest.workloads[name]
        plan.groups.append(Group(model, name, shapes, (*ordered, *added), notes))
    return plan


def find_baseline(candidate: Candidate, candidates: Iterable[Candidate]) -> Candidate | None:
    """Return the `full` engine to compare with: of the same kind, the same dtype if there is one.

    The first such: engines of a full fine-tune come before those that carry the base's own weights.
    `full` engines of other refit kinds are themselves compared with the one of `none`, which tells
    what their kind costs.
    """
    full = [other for other in candidates if other.serves_as_baseline and other.runs]
    alike = [other for other in full if other.kind == candidate.kind]
    same = [other for other in alike if other.manifest.dtype == candidate.manifest.dtype]
    own = next(iter(same or alike), None)
    if own is None or not candidate.serves_as_baseline or own.folder != candidate.folder:
        return own
    unbound = (candidate.kind[0], "none"), candidate.manifest.dtype
    return next((o for o in full if (o.kind, o.manifest.dtype) == unbound), own)


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


def _candidates(
    folder: Path, manifest: Manifest, skipped: str | None, failed: str | None
) -> list[Candidate]:
    adapters: Sequence[AdapterFile | None] = manifest.adapters or (None,)
    return [Candidate(folder, manifest, adapter, skipped, failed) for adapter in adapters]


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
    rank = candidate.rank
    return candidate.manifest.mode + (f" r{rank}" if rank else "")


def _long(candidate: Candidate) -> str:
    adapter = f" {Path(candidate.adapter.file).stem}" if candidate.adapter else ""
    return f"{candidate.folder.parent.name} {candidate.folder.name}{adapter}"
