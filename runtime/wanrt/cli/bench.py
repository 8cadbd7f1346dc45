"""`wanrt bench`: measure engines, show a table, save the results."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanrt.cli.options import (
    ENGINES,
    INTERRUPTED,
    RUNNING,
    CudaGraph,
    DeviceName,
    Engines,
    OnDevice,
    Quiet,
    Threads,
    WeightStreaming,
    device_kind,
    parse_percent,
)
from wanrt.terminal.screen import print_line, print_result

if TYPE_CHECKING:
    from wanrt.bench.options import BenchOptions
    from wanrt.bench.testbed import Testbed
    from wanrt.manifest.folder import OpenedFolder
    from wanrt.results.result import BenchResult
    from wanrt.results.video import Video

__all__ = ["bench"]

STARTS = {"json": rb'\{\s*"schema"', "csv": b"model,workload,"}
MEASURING = "Measuring"
RESULTS = "Results"
Json = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Save all results as JSON, after every round; - is standard output.",
        rich_help_panel=RESULTS,
    ),
]
Csv = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Save a line per engine as CSV; - is standard output.",
        rich_help_panel=RESULTS,
    ),
]
Markdown = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Save the table as Markdown; - is standard output.",
        rich_help_panel=RESULTS,
    ),
]


def bench(
    engines: Engines = None,
    device: OnDevice = DeviceName.auto,
    threads: Threads = None,
    weight_streaming: WeightStreaming = None,
    cuda_graph: CudaGraph = True,
    mapped: Annotated[
        bool,
        typer.Option(
            help="Run straight from the weight files, not from a copy repacked for speed.",
            rich_help_panel=RUNNING,
        ),
    ] = False,
    workload: Annotated[
        str | None,
        typer.Option(
            "--workload",
            metavar="NAME",
            help="Size to run at, such as 832x480x81, or a named workload, such as "
            "lightx2v-i2v-480p-40: its size, steps, guidance and published figures "
            "[default: every size].",
            rich_help_panel=RUNNING,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=100_000,
            help="Also show what a video of this many sampler steps takes.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    cfg: Annotated[
        bool,
        typer.Option(
            "--cfg",
            help="Count two forwards per step, as classifier-free guidance takes.",
            rich_help_panel=MEASURING,
        ),
    ] = False,
    rivals: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="RIVAL",
            help="Also measure torch-eager or torch-compile with the same weights; repeatable.",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    half_width: Annotated[
        float,
        typer.Option(
            metavar="PERCENT",
            parser=parse_percent,
            help="Target half-width of each ratio's 95% confidence interval.",
            rich_help_panel=MEASURING,
        ),
    ] = "0.5%",  # type: ignore[assignment]
    time_budget: Annotated[
        float,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Stop measuring after this time, but not before 3 loads.",
            rich_help_panel=MEASURING,
        ),
    ] = 120.0,
    loads: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            help="How often each engine is loaded [default: chosen after 3 pilot loads].",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    rounds: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            max=1000,
            help="Rounds per load [default: about as long as loading takes, 3 to 20].",
            rich_help_panel=MEASURING,
        ),
    ] = None,
    warmup: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            max=1000,
            help="Forwards to discard before each measured one.",
            rich_help_panel=MEASURING,
        ),
    ] = 1,
    probe: Annotated[
        bool,
        typer.Option(
            help="First load each engine alone, to measure loading time and peak memory.",
            rich_help_panel=MEASURING,
        ),
    ] = True,
    seed: Annotated[
        int,
        typer.Option(
            metavar="N",
            min=0,
            help="Seed of the inputs and of the order of engines.",
            rich_help_panel=MEASURING,
        ),
    ] = 0,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Continue the interrupted bench that --json FILE holds.",
            rich_help_panel=MEASURING,
        ),
    ] = False,
    json: Json = None,
    csv: Csv = None,
    markdown: Markdown = None,
    compare: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Compare with an earlier bench, saved by --json.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(
            metavar="PERCENT",
            parser=parse_percent,
            help="Exit with 1 if an engine is slower than in --compare FILE by more than this.",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Compare across machines, versions and options; replace a FILE that bench "
            "didn't write.",
            rich_help_panel=RESULTS,
        ),
    ] = False,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose",
            "-v",
            help="Show more columns, such as spread and TFLOP/s.",
            rich_help_panel=RESULTS,
        ),
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Measure engines and compare them with the full fine-tune.

    Prints tokens per second, and each engine's speed as a ratio to the engine 'full' with its 95%
    confidence interval.
    """
    from wanrt.bench.discover import choose_device, open_engines
    from wanrt.bench.options import BenchOptions
    from wanrt.bench.testbed import make_testbed
    from wanrt.report.changes import render_changes
    from wanrt.results.json import read_results
    from wanrt.results.regression import check_comparable, compare_results

    print_line("", end="")  # a closed stdout is known before the work
    chosen = _choose_exports(json, csv, markdown, compare, force)
    if not isfinite(time_budget):
        raise typer.BadParameter("--time-budget must be a number of seconds")
    if fail_above is not None and compare is None:
        raise typer.BadParameter("--fail-above needs --compare FILE")
    folders = open_engines(engines or ENGINES)
    workload, video = _choose_video(folders, workload, steps, cfg)
    options = BenchOptions(
        device=device_kind(device) or choose_device(folders),
        threads=threads,
        mapped=mapped,
        warmup=warmup,
        half_width=half_width,
        time_budget_s=time_budget,
        loads=loads,
        rounds=rounds,
        seed=seed,
        workload=workload,
        weight_streaming=weight_streaming,
        cuda_graph=cuda_graph,
        rivals=tuple(dict.fromkeys(rivals or ())),
        probe=probe,
    )
    testbed = make_testbed(options)
    earlier = _earlier(json) if resume else None
    before = read_results(compare) if compare is not None else None
    if before is not None and not force:
        check_comparable(testbed.describe(bool(options.rivals)), asdict(options), before)
    result = _bench(folders, options, video, testbed, earlier, chosen, verbose, quiet)
    if before is not None:
        changes = compare_results(result, before, fail_above)
        print_line(render_changes(changes, str(compare)), sys.stderr, end="")
        if any(change.failed for change in changes):
            raise typer.Exit(1)
    if not result.ok:
        raise typer.Exit(1)


def _bench(
    folders: Sequence[OpenedFolder],
    options: BenchOptions,
    video: Video | None,
    testbed: Testbed,
    earlier: BenchResult | None,
    exports: dict[str, Path],
    verbose: bool,
    quiet: bool,
) -> BenchResult:
    """Bench, save after every round, print the table and the warnings."""
    from wanrt.bench.run import bench_folders
    from wanrt.report.table import render_advice, render_bench
    from wanrt.terminal.progress import Reporter

    files = {kind: path for kind, path in exports.items() if str(path) != "-"}
    result = bench_folders(
        folders,
        options,
        video=video,
        testbed=testbed,
        earlier=earlier,
        on_round=(lambda r: _save(r, files)) if files else None,
        reporter=Reporter(quiet=quiet, still=True),
    )
    _save(result, files)
    to_stdout = next((kind for kind, path in exports.items() if str(path) == "-"), None)
    if to_stdout:
        print_line(render_bench(result, verbose), sys.stderr, end="")
    text = _formats()[to_stdout](result) if to_stdout else render_bench(result, verbose)
    print_result(text)
    print_line(render_advice(result), sys.stderr, end="")
    for path in files.values():
        print_line(f"saved {path}", sys.stderr)
    if result.interrupted:
        if "json" in files:
            print_line(f"to continue: wanrt bench ... --resume --json {files['json']}", sys.stderr)
        raise typer.Exit(INTERRUPTED)
    return result


def _choose_video(
    folders: Sequence[OpenedFolder], workload: str | None, steps: int | None, cfg: bool
) -> tuple[str | None, Video | None]:
    """Return the size to run at, and what units are of: a named workload says both."""
    from wanrt.bench.fitting import require_fit
    from wanrt.results.video import Video
    from wanrt.results.workloads import load_workloads

    named = load_workloads().get(workload) if workload is not None else None
    if named is None:
        asked = steps is not None or cfg
        return workload, Video(steps, 2 if cfg else 1) if asked else None
    if steps is not None or cfg:
        raise typer.BadParameter(
            f"--workload {named.name} says steps and guidance: leave out --steps and --cfg"
        )
    require_fit(folders, named)
    return named.size_name, named.video


def _choose_exports(
    json: Path | None, csv: Path | None, markdown: Path | None, compare: Path | None, force: bool
) -> dict[str, Path]:
    """Return the files to write by kind, none of which takes another's place."""
    from wanrt.storage.files import check_writable, real_path

    exports = {"json": json, "csv": csv, "markdown": markdown}
    chosen = {kind: path for kind, path in exports.items() if path is not None}
    if sum(str(path) == "-" for path in chosen.values()) > 1:
        raise typer.BadParameter("only one of --json, --csv, --markdown can go to stdout")
    if len({real_path(path) for path in chosen.values()}) < len(chosen):
        raise typer.BadParameter("--json, --csv and --markdown would replace each other's file")
    if compare is not None and any(real_path(p) == real_path(compare) for p in chosen.values()):
        raise typer.BadParameter("the results would replace what they are compared with")
    for kind, path in chosen.items():
        if str(path) != "-":
            inputs = () if compare is None else (compare,)
            check_writable(path, inputs, STARTS.get(kind, b""), force=force)
    return chosen


def _earlier(path: Path | None) -> BenchResult | None:
    """Return what is to be gone on with; nothing yet if the file isn't there."""
    from wanrt.results.json import read_results

    if path is None or str(path) == "-":
        raise typer.BadParameter("--resume needs --json FILE of the interrupted bench")
    return read_results(path) if path.exists() else None


def _save(result: BenchResult, files: dict[str, Path]) -> None:
    from wanrt.storage.files import write_text

    for kind, path in files.items():
        write_text(path, _formats()[kind](result))


def _formats() -> dict[str, Callable[[BenchResult], str]]:
    from wanrt.report.csv import to_csv
    from wanrt.report.markdown import to_markdown
    from wanrt.results.json import to_json

    return {"json": to_json, "csv": to_csv, "markdown": to_markdown}
