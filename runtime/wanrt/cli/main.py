"""The wanrt command: bench | report | run | info | verify. The only module here that prints."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from enum import StrEnum
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from wanrt.errors import WanrtError
from wanrt.terminal.units import parse_bytes

if TYPE_CHECKING:
    from wanrt.bench.options import BenchOptions
    from wanrt.bench.testbed import Lab
    from wanrt.engine.engine import Device
    from wanrt.results.result import BenchResult

app = typer.Typer(
    name="wanrt",
    help="Run and bench the engines that wanexport builds.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
ENGINES = [Path("engines")]


class DeviceName(StrEnum):
    """Where engines run; auto is the GPU for TensorRT's, the CPU for others."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


Engines = Annotated[
    list[Path] | None, typer.Argument(help="Engine folders, or folders of them; engines/.")
]
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="An engine folder.")]
OnDevice = Annotated[DeviceName, typer.Option("--device", help="Where; auto: as they need.")]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads; one per usable core by default.")
]
WorkloadName = Annotated[
    str | None, typer.Option("--workload", metavar="NAME", help="One workload of a dynamic engine.")
]


def _size(text: str) -> int:
    """Parse 20GiB as bytes."""

    try:
        return parse_bytes(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no size, like 20GiB") from None


def _percent(text: str) -> float:
    """Parse 0.5% as 0.005."""
    number = text.strip().removesuffix("%")
    try:
        value = float(number) / 100
    except ValueError:
        value = -1.0
    if not text.strip().endswith("%") or not 0 < value < 1:
        raise typer.BadParameter(f"{text!r} is no percentage, like 0.5%")
    return value


Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress on stderr.")]
WeightStreaming = Annotated[
    int | None,
    typer.Option(
        "--weight-streaming", metavar="SIZE", parser=_size, help="TensorRT: weights on the GPU."
    ),
]
CudaGraph = Annotated[bool, typer.Option(help="TensorRT: run as a CUDA graph.")]
Output = Annotated[Path | None, typer.Option(metavar="FILE", help="Save results; - is stdout.")]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 something is wrong, 2 wrong usage, 130 interrupted."""
    try:
        app(None if argv is None else list(argv), prog_name="wanrt")
    except WanrtError as error:
        print(f"error: {error}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    sys.exit(0)


@app.command()
def bench(
    engines: Engines = None,
    device: OnDevice = DeviceName.auto,
    threads: Threads = None,
    weight_streaming: WeightStreaming = None,
    cuda_graph: CudaGraph = True,
    mapped: Annotated[bool, typer.Option(help="Run from the files' pages, unpacked.")] = False,
    warmup: Annotated[int, typer.Option(min=0, help="Forwards discarded at each visit.")] = 1,
    half_width: Annotated[
        float,
        typer.Option(metavar="PERCENT", parser=_percent, help="Of a ratio's 95 % interval."),
    ] = "0.5%",  # type: ignore[assignment]
    time_budget: Annotated[
        float, typer.Option(min=0, help="Seconds of measuring; 3 loads are measured anyway.")
    ] = 120.0,
    loads: Annotated[
        int | None, typer.Option(min=1, help="Of every engine, instead of what follows.")
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, help="In every load, instead of what loading costs.")
    ] = None,
    rivals: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="RIVAL", help="torch-eager, torch-compile; repeats."),
    ] = None,
    probe: Annotated[
        bool, typer.Option(help="Loading times and memory, each engine alone.")
    ] = True,
    seed: Annotated[int, typer.Option(min=0, help="Of the inputs and the order.")] = 0,
    workload: WorkloadName = None,
    json: Output = None,
    csv: Output = None,
    markdown: Output = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where --json FILE was broken off.")
    ] = False,
    compare: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With the JSON of an earlier bench.")
    ] = None,
    fail_above: Annotated[
        float | None,
        typer.Option(metavar="PERCENT", parser=_percent, help="Fail if this much slower."),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Compare across machines and versions.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Spread, TFLOP/s.")] = False,
    quiet: Quiet = False,
    fake: Annotated[Path | None, typer.Option(hidden=True)] = None,
) -> None:
    """Measure engines and compare them with the full fine-tune's: tokens per second, ratios."""
    from wanrt.bench.discover import choose_device
    from wanrt.bench.options import BenchOptions
    from wanrt.bench.run import make_lab
    from wanrt.report.changes import render_changes
    from wanrt.results.json import read_results
    from wanrt.results.regression import check_comparable, compare_results

    if not isfinite(time_budget):
        raise typer.BadParameter("--time-budget is a number of seconds")
    exports = {"json": json, "csv": csv, "markdown": markdown}
    chosen = {kind: path for kind, path in exports.items() if path is not None}
    if sum(str(path) == "-" for path in chosen.values()) > 1:
        raise typer.BadParameter("only one of --json, --csv, --markdown can go to stdout")
    if len({path.resolve() for path in chosen.values()}) < len(chosen):
        raise typer.BadParameter("--json, --csv and --markdown would replace each other's file")
    if fail_above is not None and compare is None:
        raise typer.BadParameter("--fail-above needs --compare FILE")
    if compare is not None and any(p.resolve() == compare.resolve() for p in chosen.values()):
        raise typer.BadParameter("the results would replace what they are compared with")
    engines = engines or ENGINES
    options = BenchOptions(
        device=_device(device) or choose_device(engines),
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
    lab = _fake_lab(fake) or make_lab(options)
    earlier = _earlier(json) if resume else None
    before = read_results(compare) if compare is not None else None
    if before is not None and not force:
        check_comparable(lab.describe(bool(options.rivals)), asdict(options), before)
    result = _bench(engines, options, lab, earlier, chosen, verbose, quiet)
    if before is not None:
        changes = compare_results(result, before, fail_above)
        print(render_changes(changes, str(compare)), end="", file=sys.stderr)
        if any(change.failed for change in changes):
            raise typer.Exit(1)
    if not result.ok:
        raise typer.Exit(1)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(metavar="FILE", help="What bench --json wrote.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Beside it by default.")
    ] = None,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Each plot as PNG and SVG, too.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make one HTML file of a bench's results: what was found, plots, every raw number."""
    from wanrt.errors import ResultsError
    from wanrt.report.headline import summary_lines
    from wanrt.results.json import read_results
    from wanrt.storage.files import write_text
    from wanrt.terminal.progress import Reporter

    result = read_results(results)
    try:
        from wanrt.report.html.page import render_page, save_plots
    except ImportError as error:
        hint = "pip install 'wanexport[report]'"
        raise ResultsError(f"a report needs {error.name}, which isn't installed", hint) from None
    output = output or results.with_suffix(".html")
    if output.resolve() == results.resolve():
        raise typer.BadParameter("-o would replace the results themselves")
    with Reporter(quiet=quiet).work("plotting"):
        if plots is not None:
            save_plots(result, plots)
        write_text(output, render_page(result, results.stem))
    for line in summary_lines(result):
        print(line)
    print(f"saved {output}", file=sys.stderr)


@app.command()
def run(
    folder: Folder,
    save: Annotated[Path, typer.Option(metavar="FILE", help="Write the outputs, safetensors.")],
    seed: Annotated[int, typer.Option(min=0, help="Of random inputs.")] = 0,
    inputs: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Inputs by name, safetensors.")
    ] = None,
    adapter: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A canonical adapter, of an engine that can swap."),
    ] = None,
    workload: WorkloadName = None,
    device: OnDevice = DeviceName.auto,
    threads: Threads = None,
    weight_streaming: WeightStreaming = None,
    quiet: Quiet = False,
) -> None:
    """Run one forward and save its outputs."""
    from wanrt.cli.run import run_engine, save_tensors
    from wanrt.engine.tensors import show_shape
    from wanrt.storage.files import check_writable
    from wanrt.terminal.progress import Reporter

    if save.suffix != ".safetensors":
        raise typer.BadParameter(f"--save writes safetensors: name it {save.stem}.safetensors")
    if any(given and given.resolve() == save.resolve() for given in (inputs, adapter)):
        raise typer.BadParameter("the outputs would replace what they are made from")
    check_writable(save)
    outputs = run_engine(
        folder,
        device=_device(device),
        threads=threads,
        weight_streaming=weight_streaming,
        seed=seed,
        inputs=inputs,
        workload=workload,
        adapter=adapter,
        reporter=Reporter(quiet=quiet),
    )
    source = str(inputs) if inputs else f"seed {seed}"
    save_tensors(save, outputs, {"engine": str(folder), "inputs": source})
    for name, array in outputs.items():
        print(f"{name} {array.dtype} {show_shape(array.shape)}")
    print(f"saved {save}", file=sys.stderr)


@app.command()
def info(
    folder: Folder,
    json: Annotated[bool, typer.Option("--json", help="The manifest as it is.")] = False,
) -> None:
    """Show what an engine is."""
    from wanrt.cli.info import render_info
    from wanrt.manifest.read import read_manifest

    manifest = read_manifest(folder)
    print(manifest.to_json() if json else render_info(folder, manifest), end="")


@app.command()
def verify(
    engines: Engines = None,
    restore_mtime: Annotated[
        bool, typer.Option(help="Where only the time differs, set the recorded one.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Rehash every file of engines and compare it with their manifests."""
    from wanrt.bench.discover import find_engines
    from wanrt.cli.verify import render_findings, render_verdict, verify_engine, verify_size
    from wanrt.terminal.progress import Reporter

    folders = find_engines(engines or ENGINES)
    findings = {}
    total = sum(map(verify_size, folders))
    with Reporter(quiet=quiet).bytes("rehashing", total) as piece:
        for folder in folders:
            found = verify_engine(folder, restore_mtime=restore_mtime, on_bytes=piece.advance)
            print(render_findings(folder, found))
            findings[folder] = found
    print(render_verdict(engines or ENGINES, findings))
    if not all(one.ok for found in findings.values() for one in found):
        raise typer.Exit(1)


def _bench(
    engines: Sequence[Path],
    options: BenchOptions,
    lab: Lab,
    earlier: BenchResult | None,
    exports: dict[str, Path],
    verbose: bool,
    quiet: bool,
) -> BenchResult:
    """Bench, save after every round, print the table and the warnings."""
    from wanrt.bench.run import bench_engines
    from wanrt.report.table import render_advice, render_bench
    from wanrt.terminal.progress import Reporter

    files = {kind: path for kind, path in exports.items() if str(path) != "-"}
    result = bench_engines(
        engines,
        options,
        lab=lab,
        earlier=earlier,
        on_round=(lambda r: _save(r, files)) if files else None,
        reporter=Reporter(quiet=quiet, still=True),
    )
    _save(result, files)
    to_stdout = next((kind for kind, path in exports.items() if str(path) == "-"), None)
    print(render_bench(result, verbose), end="", file=sys.stderr if to_stdout else sys.stdout)
    if to_stdout:
        print(_formats()[to_stdout](result), end="")
    print(render_advice(result), end="", file=sys.stderr)
    for path in files.values():
        print(f"saved {path}", file=sys.stderr)
    if result.interrupted:
        if "json" in files:
            print(f"go on with: --resume --json {files['json']}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED)
    return result


def _device(name: DeviceName) -> Device | None:
    devices: dict[DeviceName, Device] = {DeviceName.cpu: "cpu", DeviceName.cuda: "cuda"}
    return devices.get(name)


def _earlier(path: Path | None) -> BenchResult | None:
    """Return what is to be gone on with; nothing yet if the file isn't there."""
    from wanrt.results.json import read_results

    if path is None or str(path) == "-":
        raise typer.BadParameter("--resume needs the --json FILE of the bench that was broken off")
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


def _fake_lab(script: Path | None) -> Lab | None:
    if script is None:
        return None
    from wanrt.bench.fake import FakeLab, read_script

    return FakeLab(read_script(script))
