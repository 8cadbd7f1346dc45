"""The bench of one model and workload: a pilot, then as many loads as its spread asks for."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wanrt.bench.candidates import find_baseline
from wanrt.bench.group_result import make_rows, note_gaps, time_entries
from wanrt.bench.groups import Group
from wanrt.bench.memory import MemoryBudget, choose_sets
from wanrt.bench.options import BenchOptions
from wanrt.bench.rounds import Entry, LoadSpec, count_bytes, measure_load
from wanrt.bench.testbed import Testbed
from wanrt.errors import ResultsError, UnsupportedError, WanrtError
from wanrt.machine.devices import DeviceRates
from wanrt.results.ratios import Timed, count_loads, find_band
from wanrt.results.result import GroupResult
from wanrt.results.values import Probe, Ratio
from wanrt.terminal.progress import Piece, Reporter

__all__ = ["GroupBench"]

MIN_LOADS = 3
MAX_LOADS = 100


class GroupBench:
    """The bench of one group: its entries and what is known of them so far."""

    def __init__(self, testbed: Testbed, group: Group, options: BenchOptions) -> None:
        self._testbed = testbed
        self._group = group
        self._options = options
        self._title = f"{group.model} {group.name}"
        self._entries = [Entry(c, skipped=c.skipped, failed=c.failed) for c in group.candidates]
        self._notes = list(group.notes)
        self._rounds = options.rounds
        self._loads = options.loads
        self._done = 0  # loads
        self._sets = 1
        self._earlier: GroupResult | None = None
        self._rates: dict[str, DeviceRates | None] = {}
        self.timed = ""

    @property
    def key(self) -> tuple[str, str]:
        """What identifies a group: model and workload."""
        return self._group.model, self._group.name

    @property
    def device(self) -> str | None:
        """What predictions are for."""
        return next((rates.full_name for rates in self._rates.values() if rates), None)

    def resume(self, earlier: GroupResult, timed: str, *, same_aim: bool) -> None:
        """Continue where an earlier bench of the same group ended.

        Args:
            earlier: what it measured.
            timed: what it timed.
            same_aim: whether half-width and time budget are its, and so its number of loads.

        Raises:
            ResultsError: it had other engines.
        """
        known = {(row.label, row.dtype): row for row in earlier.candidates}
        for entry in self._entries:
            candidate = entry.candidate
            row = known.pop((candidate.label, candidate.manifest.dtype), None)
            if row is None or row.identity != candidate.identity:
                raise ResultsError(
                    f"{candidate.folder} isn't what the earlier bench measured",
                    "start over without --resume",
                )
            entry.probe, entry.clocks, entry.energy = row.probe, row.clocks, row.energy
            entry.forwards = list(row.forwards)
        if known:
            label, dtype = next(iter(known))
            raise ResultsError(
                f"the earlier bench had {label} {dtype}, which is gone",
                "start over without --resume",
            )
        self._earlier = earlier
        self.timed = timed
        self._sets = earlier.sets
        self._rounds = self._rounds or earlier.rounds or None
        if same_aim:
            self._loads = self._loads or earlier.loads or None

    def run(self, budget_s: float, save: Callable[[], None], reporter: Reporter) -> float:
        """Measure all entries and return how many seconds that took, without probes."""
        self._probe(reporter)
        start = self._testbed.now()
        with reporter.work("measuring the device"):
            self._rate()
        options = self._options
        budget = MemoryBudget(
            self._testbed.available_bytes(),
            self._group.name,
            options.device,
            options.mapped,
            options.weight_streaming,
        )
        sets, notes = choose_sets(self._entries, budget)
        self._notes += notes
        adopted = self._adopt(len(sets))
        with reporter.steps(self._title, None, "rounds") as rounds:
            rounds.advance(adopted * len(sets) * (self._rounds or 0))
            while any(e.active for e in self._entries) and (
                self._loads is None or self._done < self._loads
            ):
                self._load_all(sets, save, reporter, rounds)
                if self._loads is None and self._done >= MIN_LOADS:
                    spent = self._testbed.now() - start
                    self._loads = self._choose(spent / (self._done - adopted), budget_s - spent)
        return self._testbed.now() - start

    def timed_candidates(self) -> list[Timed]:
        """Return what has been measured, as ratios are taken from it."""
        return time_entries(self._entries)

    def result(self, timed: Sequence[Timed], ratios: Sequence[Ratio | None]) -> GroupResult:
        """Return what is known so far."""
        half_width = self._options.half_width
        baselines = dict.fromkeys(own.baseline for own in timed if own.baseline is not None)
        bands = (find_band(timed, ratios, index) for index in baselines)
        return GroupResult(
            self._group.model,
            self._group.name,
            make_rows(self._entries, timed, ratios, self._group.name, self._rates, half_width),
            self._loads or 0,
            self._rounds or 0,
            self._sets,
            (*self._notes, *note_gaps(self._entries, timed)),
            next((band for band in bands if band is not None), None),
            half_width,
        )

    def _probe(self, reporter: Reporter) -> None:
        """Find out once per engine what it takes to load; controls are the same engine again."""
        if not self._options.probe:
            return
        unknown = (e for e in self._entries if not e.candidate.again and e.probe == Probe())
        with reporter.bytes("probing", count_bytes(unknown)) as piece:
            self._probe_each(piece)

    def _probe_each(self, piece: Piece) -> None:
        candidates = [entry.candidate for entry in self._entries if entry.active]
        for entry in self._entries:
            candidate = entry.candidate
            if not entry.active or candidate.again or entry.probe != Probe():
                continue
            alike = [e for e in self._entries if e.candidate.loads_as == candidate.loads_as]
            if alike[0] is not entry:
                entry.probe = alike[0].probe
                continue
            piece.tell(f"probing {candidate.label}")
            base = find_baseline(candidate, candidates)
            other = base if base is not candidate else None
            try:
                entry.probe = self._testbed.probe(
                    candidate, other, self._group.name, self._options.seed
                )
            except UnsupportedError as error:
                _mark(alike, skipped=str(error))
            except WanrtError as error:
                _mark(alike, failed=str(error))
            piece.advance(candidate.bytes)

    def _rate(self) -> None:
        for dtype in {e.candidate.manifest.dtype for e in self._entries if e.active}:
            self._rates[dtype] = self._testbed.rates(dtype)

    def _adopt(self, sets: int) -> int:
        """Keep the earlier bench's whole loads and return how many there are."""
        if self._earlier is None or not self._rounds:
            self._sets = sets
            return 0
        if self._sets != sets:
            raise ResultsError(
                f"memory now holds the engines in {sets} sets, not {self._sets}",
                "free memory, or start over without --resume",
            )
        begun = [entry for entry in self._entries if entry.forwards]
        while begun and all(self._whole(entry, self._done) for entry in begun if entry.active):
            self._done += 1
        for entry in begun:
            entry.forwards = [f for f in entry.forwards if f.load < self._done * sets]
        return self._done

    def _whole(self, entry: Entry, load: int) -> bool:
        """Tell whether an entry has all rounds of a load, in whichever set it was loaded."""
        numbers = range(load * self._sets, (load + 1) * self._sets)
        counts = [sum(1 for f in entry.forwards if f.load == number) for number in numbers]
        return any(counts) and all(n in (0, 2 * (self._rounds or 0)) for n in counts)

    def _load_all(
        self,
        sets: Sequence[list[Entry]],
        save: Callable[[], None],
        reporter: Reporter,
        rounds: Piece,
    ) -> None:
        """Load every set once and run its rounds."""

        def on_round() -> None:
            save()
            rounds.advance()

        for index, entries in enumerate(sets):
            number = self._done * len(sets) + index
            loads = self._loads or max(MIN_LOADS, self._done + 1)
            rounds.tell(self._title, loads * self._sets * (self._rounds or 0) or None)
            spec = LoadSpec(
                number, self._group.name, self._rounds, self._options.warmup, self._options.seed
            )
            count, timed = measure_load(self._testbed, entries, spec, on_round, reporter)
            self._rounds = self._rounds or count or None
            self.timed = self.timed or timed
        self._done += 1

    def _choose(self, load_s: float, left_s: float) -> int:
        """Fix the number of loads: what the half-width needs, or what the time allows."""
        fitting = self._done
        while fitting < MAX_LOADS and (fitting + 1 - self._done) * load_s <= left_s:
            fitting += 1
        if left_s < 0:
            self._notes.append(
                f"the fewest loads, {MIN_LOADS}, took {-left_s:.3g} s longer than the time budget "
                "allows"
            )
        needed = count_loads(self.timed_candidates(), self._options.half_width, MAX_LOADS)
        return max(self._done, min(fitting, needed))


def _mark(entries: Sequence[Entry], skipped: str | None = None, failed: str | None = None) -> None:
    for entry in entries:
        entry.skipped, entry.failed = skipped, failed
