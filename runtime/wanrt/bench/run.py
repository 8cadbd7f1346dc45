"""Bench engines against the full fine-tune's: plan, load, measure in rounds, return the result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

from wanrt.bench.discover import open_engines
from wanrt.bench.group import GroupBench
from wanrt.bench.groups import Group, plan_bench
from wanrt.bench.options import EXTENDABLE, BenchOptions
from wanrt.bench.testbed import Testbed, make_testbed
from wanrt.bench.videos import count_videos
from wanrt.errors import ResultsError
from wanrt.manifest.folder import EngineFolder, OpenedFolder
from wanrt.results.advice import advise_on_machine
from wanrt.results.ratios import compare_groups
from wanrt.results.result import BenchResult
from wanrt.results.video import Video
from wanrt.terminal.progress import Reporter

__all__ = ["bench_engines", "bench_folders"]


def bench_engines(
    paths: Iterable[Path | str],
    options: BenchOptions | None = None,
    *,
    video: Video | None = None,
    testbed: Testbed | None = None,
    earlier: BenchResult | None = None,
    on_round: Callable[[BenchResult], None] | None = None,
    reporter: Reporter | None = None,
) -> BenchResult:
    """Measure every engine in `paths` and compare it with the `full` engine of its model.

    Args:
        paths: engine folders, or folders of engine folders.
        options: how to measure.
        video: what the rows' units are of; they are derived, so another one may be resumed with.
        testbed: where engines, clock and memory come from; this machine by default.
        earlier: the result of an interrupted bench, to continue where that one ended.
        on_round: called with the result so far, before the first and after every round, to save it.
        reporter: receives progress; silent by default.

    Raises:
        ResultsError: there is nothing to bench, or `earlier` is of other engines, options or
            another machine. Engines that can't be read, loaded or run don't raise: they are rows
            that say so. Nor does Ctrl-C: the result says `interrupted`.
    """
    folders = open_engines(Path(path) for path in paths)
    return bench_folders(
        folders,
        options,
        video=video,
        testbed=testbed,
        earlier=earlier,
        on_round=on_round,
        reporter=reporter,
    )


def bench_folders(
    folders: Iterable[OpenedFolder],
    options: BenchOptions | None = None,
    *,
    video: Video | None = None,
    testbed: Testbed | None = None,
    earlier: BenchResult | None = None,
    on_round: Callable[[BenchResult], None] | None = None,
    reporter: Reporter | None = None,
) -> BenchResult:
    """Do what `bench_engines` does, with folders that were opened already."""
    options = options or BenchOptions()
    testbed = testbed or make_testbed(options)
    reporter = reporter or Reporter(quiet=True)
    for name in options.rivals:
        testbed.check_rival(name)

    def check(folder: EngineFolder) -> None:
        testbed.check(folder, reporter)

    plan = plan_bench(folders, check, options.workload, options.rivals)
    result = BenchResult(
        machine=testbed.describe(bool(options.rivals)),
        options=asdict(options) | {"rivals": list(options.rivals)},  # as JSON has it
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        broken=plan.broken,
        advice=tuple(plan.stale),
        video=video,
    )
    benches = [GroupBench(testbed, group, options) for group in plan.groups]
    if earlier is not None:
        _resume(earlier, result, benches)

    def snapshot() -> BenchResult:
        return _gather(result, plan.groups, benches)

    def save() -> None:
        if on_round is not None:
            on_round(snapshot())

    save()  # a results file that can't be written is known before the work
    left_s = options.time_budget_s
    try:
        for number, bench in enumerate(benches):
            left_s -= bench.run(left_s / (len(benches) - number), save, reporter)
    except KeyboardInterrupt:
        return replace(snapshot(), interrupted=True)
    return snapshot()


def _gather(
    result: BenchResult, planned: Sequence[Group], benches: Sequence[GroupBench]
) -> BenchResult:
    """Compare what all groups have measured so far: claims are corrected for all candidates."""
    timed = [bench.timed_candidates() for bench in benches]
    ratios = compare_groups(timed)
    results = [b.result(own, found) for b, own, found in zip(benches, timed, ratios, strict=True)]
    groups = count_videos(planned, results, result.video)
    measured = any(row.forwards for group in groups for row in group.candidates)
    return replace(
        result,
        groups=groups,
        timed=next((bench.timed for bench in benches if bench.timed), ""),
        device=next((bench.device for bench in benches if bench.device), None),
        advice=(*(advise_on_machine(result.machine) if measured else ()), *result.advice),
    )


def _resume(earlier: BenchResult, result: BenchResult, benches: Sequence[GroupBench]) -> None:
    """Refuse to resume a bench that measured something else."""
    hint = "start over without --resume"
    for name, (was, now) in earlier.machine.list_differences(result.machine).items():
        raise ResultsError(
            f"the earlier bench ran on another machine or with other versions: {name} was {was}, "
            f"is {now}",
            hint,
        )
    defaults = asdict(BenchOptions())
    for name in defaults.keys() - EXTENDABLE:
        if earlier.options.get(name, defaults[name]) != result.options[name]:
            flag = f"--{name.replace('_', '-')}"
            raise ResultsError(f"the earlier bench had another {flag}", hint)
    same_aim = all(
        earlier.options.get(name) == result.options[name]
        for name in ("half_width", "time_budget_s")
    )
    groups = {(group.model, group.workload): group for group in earlier.groups}
    for bench in benches:
        found = groups.pop(bench.key, None)
        if found is not None:
            bench.resume(found, earlier.timed, same_aim=same_aim)
    if groups:
        model, workload = next(iter(groups))
        raise ResultsError(f"the earlier bench also had {model} {workload}", hint)
