"""Bench engines against the full fine-tune's: plan, load, measure in rounds, return the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from wanrt.advice import advise_on_machine, advise_on_row
from wanrt.candidates import Candidate, Group, plan_bench
from wanrt.engine import Device
from wanrt.lab import Lab, RealLab
from wanrt.results import BenchResult, CandidateResult, GroupResult, compare
from wanrt.rounds import MIN_ROUNDS, Entry, Schedule, measure_load
from wanrt.values import Probe, Ratio

__all__ = ["BenchOptions", "Progress", "bench_engines"]


@dataclass(frozen=True)
class BenchOptions:
    """How to bench; the defaults suit a first look.

    `warmup` forwards are discarded at each visit of an engine. `rounds` overrides what the time
    budget would give; the budget is for measuring, and the fewest rounds may exceed it.
    """

    device: Device = "cpu"
    threads: int | None = None
    mapped: bool = False
    warmup: int = 1
    time_budget_s: float = 120.0
    rounds: int | None = None
    seed: int = 0
    workload: str | None = None


@dataclass(frozen=True)
class Progress:
    """Where a bench is: what it does, and how many of how many rounds are done."""

    text: str
    done: int
    total: int


def bench_engines(
    paths: Iterable[Path | str],
    options: BenchOptions | None = None,
    *,
    lab: Lab | None = None,
    on_round: Callable[[BenchResult], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> BenchResult:
    """Measure every engine in `paths` and compare it with the `full` engine of its model.

    Args:
        paths: engine folders, or folders of engine folders.
        options: how to measure.
        lab: where engines, clock and memory come from; this machine by default.
        on_round: called with the result so far, before the first and after every round, to save it.
        on_progress: called before every round.

    Raises:
        ResultsError: there is nothing to bench. Engines that can't be read, loaded or run don't
            raise: they are rows that say so. Nor does Ctrl-C: the result says `interrupted`.
    """
    options = options or BenchOptions()
    lab = lab or RealLab(options.device, options.threads, options.mapped)
    plan = plan_bench([Path(path) for path in paths], lab.check, options.workload)
    machine = lab.describe()
    result = BenchResult(
        machine=machine,
        options=asdict(options),
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        broken=plan.broken,
    )
    benches = [_GroupBench(lab, group, options, n == 0) for n, group in enumerate(plan.groups)]

    def snapshot() -> BenchResult:
        groups = tuple(bench.result() for bench in benches)
        timed = next((bench.timed for bench in benches if bench.timed), "")
        measured = any(row.forwards for group in groups for row in group.candidates)
        advice = advise_on_machine(machine) if measured else ()
        return replace(result, groups=groups, timed=timed, advice=advice)

    on_round(result)  # a results file that can't be written is known before the work
    deadline = lab.now() + options.time_budget_s
    try:
        for number, bench in enumerate(benches):
            share = (deadline - lab.now()) / (len(benches) - number)
            bench.run(lab.now() + share, lambda: on_round(snapshot()), on_progress)
    except KeyboardInterrupt:
        return replace(snapshot(), interrupted=True)
    return snapshot()


class _GroupBench:
    """The bench of one group: its entries and what is known of them so far."""

    def __init__(self, lab: Lab, group: Group, options: BenchOptions, first: bool) -> None:
        self._lab = lab
        self._first = first
        self._group = group
        self._options = options
        self._entries = [Entry(c, skipped=c.skipped) for c in group.candidates]
        self._notes: list[str] = []
        self.timed = ""

    def run(
        self,
        deadline: float,
        on_round: Callable[[], None],
        on_progress: Callable[[Progress], None],
    ) -> None:
        """Measure all entries, in as few loads as memory allows."""
        title = f"{self._group.model} {self._group.name}"
        loads = self._plan_loads()
        for number, entries in enumerate(loads):
            on_progress(Progress(f"{title}: loading {len(entries)} candidates", 0, 0))
            now = self._lab.now()
            schedule = Schedule(
                warmup=self._options.warmup,
                rounds=self._options.rounds,
                seed=self._options.seed,
                deadline=now + (deadline - now) / (len(loads) - number),
                on_round=_reporter(title, on_round, on_progress),
                fresh=self._first and number == 0,
            )
            timed = measure_load(self._lab, self._group, entries, number, schedule)
            self.timed = self.timed or timed
            self._note_overrun(entries, number, schedule)

    def result(self) -> GroupResult:
        """Return what is known so far."""
        rows = tuple(self._row(entry) for entry in self._entries)
        notes = list(self._notes)
        if not any(entry.candidate.manifest.mode == "full" for entry in self._entries):
            notes.append("no `full` engine of this model and workload: no ratios")
        rounds = max((len({(f.load, f.round) for f in row.forwards}) for row in rows), default=0)
        return GroupResult(self._group.model, self._group.name, rows, rounds, tuple(notes))

    def _plan_loads(self) -> list[list[Entry]]:
        """Load all engines at once, or pair by pair with their baseline if they don't fit."""
        active = [entry for entry in self._entries if entry.active]
        available = self._lab.available_bytes()
        for entry in active:
            self._skip_unless_fit([entry], [entry], available)
        active = [entry for entry in active if entry.active]
        together = self._need(active)
        if not active or (available is not None and together <= available):
            return [active] if active else []
        loads = self._pairs(active, available)
        why = "free device memory isn't known (pip install nvidia-ml-py)"
        if available is not None:
            why = f"the engines need about {_gib(together)} together, {_gib(available)} are free"
        paired = any(len(load) > 1 for load in loads)
        how = "in pairs with their baseline" if paired else "one at a time, without ratios"
        if len(loads) > 1 or available is not None:
            self._notes.append(f"{why}: measured {how}")
        return loads

    def _skip_unless_fit(
        self, entries: list[Entry], load: list[Entry], available: int | None
    ) -> None:
        """Skip the entries if their load exceeds the memory; mapped pages needn't fit."""
        need = self._need(load)
        if available is None or need <= available or self._options.mapped:
            return
        what = "" if len(load) == len(entries) else " together with its baseline"
        remedy = " (--mapped needs half)" if self._options.device == "cpu" else ""
        for entry in entries:
            entry.skipped = (
                f"needs about {_gib(need)} of memory{what}, {_gib(available)} are free{remedy}"
            )

    def _note_overrun(self, entries: list[Entry], load: int, schedule: Schedule) -> None:
        rounds = {f.round for entry in entries for f in entry.forwards if f.load == load}
        fewest = schedule.rounds is None and len(rounds) == MIN_ROUNDS
        budget = f"{self._options.time_budget_s:g} s"
        note = f"the time budget of {budget} was exceeded by the fewest rounds, {MIN_ROUNDS}"
        if fewest and self._lab.now() > schedule.deadline and note not in self._notes:
            self._notes.append(note)

    def _pairs(self, active: list[Entry], available: int | None) -> list[list[Entry]]:
        loads = []
        for folder in dict.fromkeys(entry.candidate.folder for entry in active):
            members = [entry for entry in active if entry.candidate.folder == folder]
            base = self._baseline(members[0], active)
            if base is not None and base is not members[0]:
                self._skip_unless_fit(members, [base, *members], available)
                loads += [[base, *members]] if members[0].active else []
        paired = {id(entry) for load in loads for entry in load}
        return loads + [[e] for e in active if e.active and id(e) not in paired]

    def _need(self, entries: list[Entry]) -> int:
        """Estimate device memory: the weights, once more where a CPU repacks them."""
        manifests = {entry.candidate.folder: entry.candidate.manifest for entry in entries}
        weights = sum(manifest.weight_bytes for manifest in manifests.values())
        repacked = self._options.device == "cpu" and not self._options.mapped
        return 2 * weights if repacked else weights

    def _baseline(self, entry: Entry, entries: list[Entry]) -> Entry | None:
        """Return the `full` entry to compare with, of the same dtype if there is one."""
        full = [other for other in entries if other.candidate.manifest.mode == "full"]
        dtype = entry.candidate.manifest.dtype
        same = [other for other in full if other.candidate.manifest.dtype == dtype]
        return next(iter(same or full), None)

    def _row(self, entry: Entry) -> CandidateResult:
        measured = [other for other in self._entries if other.forwards]
        base = self._baseline(entry, measured) if entry.forwards else None
        ratio = None
        if base is entry:
            ratio = Ratio(1.0, 1.0, 1.0, 0, 0, None, "baseline")
        elif base is not None:
            ratio = compare(entry.forwards, base.forwards)
        return replace(
            _describe(entry.candidate, self._group),
            baseline=base.candidate.label if base else None,
            baseline_dtype=base.candidate.manifest.dtype if base else None,
            forwards=tuple(entry.forwards),
            probe=Probe(memory_bytes=entry.memory_bytes),
            ratio=ratio,
            skipped=entry.skipped,
            failed=entry.failed,
            advice=advise_on_row([f.seconds for f in entry.forwards], ratio),
        )


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def _reporter(
    title: str, on_round: Callable[[], None], on_progress: Callable[[Progress], None]
) -> Callable[[int, int], None]:
    def report(done: int, total: int) -> None:
        if done:
            on_round()
        on_progress(Progress(title, done, total))

    return report


def _describe(candidate: Candidate, group: Group) -> CandidateResult:
    manifest = candidate.manifest
    workload = manifest.workloads[group.name]
    return CandidateResult(
        engine=str(candidate.folder),
        label=candidate.label,
        mode=manifest.mode,
        rank=candidate.rank,
        dtype=manifest.dtype,
        random_weights=manifest.random_weights,
        verified=manifest.verification.method != "none",
        full_finetune=manifest.full_finetune,
        batch=workload.batch,
        tokens=workload.tokens,
        flops=sum(workload.flops.values()),
    )
