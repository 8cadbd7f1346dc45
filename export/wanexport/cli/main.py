"""The wanexport command: build | plan | inspect | adapter. The only module here that prints."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from wanexport.cli import tensorrt_options
from wanexport.cli.recorded import record_command
from wanexport.errors import UsageError, WanExportError
from wanexport.model.config import DEMO
from wanrt.errors import WanrtError

if TYPE_CHECKING:
    from wanexport.build.request import BuildRequest, Mode
    from wanexport.cost import Outlook
    from wanexport.model.config import Config

app = typer.Typer(
    name="wanexport",
    context_settings={"token_normalize_func": tensorrt_options.respell},
    help="Build engines of fine-tuned Wan2.1 models, with LoRA merged, separate or swappable.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

INTERRUPTED = 130
EXTRAS = dict.fromkeys(("torch", "diffusers", "onnx", "onnx_ir", "onnxscript"), "export") | {
    "onnxruntime": "cpu"
}


class ModeName(StrEnum):
    """How an engine carries its adapter."""

    full = "full"
    merged = "merged"
    separate = "separate"
    swappable = "swappable"


class DtypeName(StrEnum):
    """What an engine computes in."""

    fp32 = "fp32"
    fp16 = "fp16"
    bf16 = "bf16"


class BackendName(StrEnum):
    """What executes an engine."""

    onnxruntime = "onnxruntime"
    tensorrt = "tensorrt"
    tensorrt_rtx = "tensorrt-rtx"


class WeightsName(StrEnum):
    """How weights get into an engine folder."""

    link = "link"
    copy = "copy"


class VerifyName(StrEnum):
    """What an engine is compared with before it exists."""

    diffusers = "diffusers"
    none = "none"


ConfigOption = Annotated[
    str, typer.Option("--config", metavar="NAME|FILE", help="Shipped, a TOML, an engine.json.")
]
DtypeOption = Annotated[DtypeName | None, typer.Option(help="Overrides the configuration's.")]
Width = Annotated[int | None, typer.Option(help="Pixels.")]
Height = Annotated[int | None, typer.Option(help="Pixels.")]
Frames = Annotated[int | None, typer.Option(help="Frames, 4k + 1.")]
Batch = Annotated[int | None, typer.Option(help="Videos per forward.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no progress on stderr.")]
Lora = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="FILE[:STRENGTH]", help="A LoRA; repeat to combine."),
]


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 something is wrong, 2 wrong usage, 130 interrupted."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is ever downloaded
    try:
        given = sys.argv[1:] if argv is None else list(argv)
        app(given, prog_name="wanexport", standalone_mode=True, obj=given)
    except (WanExportError, WanrtError) as error:
        _fail(str(error), error.hint, 2 if isinstance(error, UsageError) else 1)
    except SystemExit as stop:  # typer turns an interrupt into this code
        if stop.code == INTERRUPTED:
            print("interrupted; nothing half-made is left", file=sys.stderr)
        raise
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            raise
        _fail(f"{error.name} isn't installed", f"pip install 'wanexport[{extra}]'")
    sys.exit(0)


@app.command()
def build(
    context: typer.Context,
    rank: Annotated[
        list[int] | None,
        typer.Option("--rank", min=1, help="Rank of an adapter to make."),
    ] = None,
    mode: Annotated[
        list[ModeName] | None, typer.Option("--mode", help="Engines to make; all by default.")
    ] = None,
    config: ConfigOption = DEMO,
    base: Annotated[
        str | None,
        typer.Option(metavar="DIR|FILE|ID|random", help="The base checkpoint."),
    ] = None,
    finetuned: Annotated[
        str | None, typer.Option(metavar="DIR|FILE|ID", help="The full fine-tune's checkpoint.")
    ] = None,
    lora: Lora = None,
    dtype: DtypeOption = None,
    backend: Annotated[BackendName, typer.Option(help="What runs them.")] = BackendName.onnxruntime,
    width: Width = None,
    height: Height = None,
    frames: Frames = None,
    batch: Batch = None,
    dynamic: Annotated[
        bool, typer.Option("--dynamic", help="One engine for all the configuration's sizes.")
    ] = False,
    max_rank: Annotated[
        int | None, typer.Option(min=1, help="Of the swappable engine; the largest asked.")
    ] = None,
    merge_rest: Annotated[
        bool, typer.Option("--merge-rest", help="Merge what a mode can't carry into its base.")
    ] = False,
    weights: Annotated[
        WeightsName, typer.Option(help="copy makes folders that can be moved.")
    ] = WeightsName.link,
    verify: Annotated[
        VerifyName, typer.Option(help="Compare outputs with; none reads no linked weights.")
    ] = VerifyName.diffusers,
    out: Annotated[Path, typer.Option(help="Where engines go.")] = Path("engines"),
    force: Annotated[
        bool, typer.Option("--force", help="Rebuild and replace what is there.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be built, and why.")
    ] = False,
    refit: tensorrt_options.Refit = None,
    bake: tensorrt_options.Bake = False,
    compute_capability: tensorrt_options.Capability = None,
    builder_optimization_level: tensorrt_options.Level = None,
    workspace: tensorrt_options.Workspace = None,
    max_aux_streams: tensorrt_options.AuxStreams = None,
    hardware_compatibility_level: tensorrt_options.Hardware = tensorrt_options.HardwareName.none,
    version_compatible: tensorrt_options.VersionCompatible = False,
    allow_weight_streaming: tensorrt_options.WeightStreaming = False,
    allow_unfused: tensorrt_options.AllowUnfused = False,
    memory_limit: tensorrt_options.MemoryLimit = None,
    no_build_control: tensorrt_options.NoControl = False,
    quiet: Quiet = False,
) -> None:
    """Build one engine per mode and rank; what is there already is kept."""
    from wanexport.build.request import MODES, RANDOM, BuildRequest, check_usage, parse_lora

    plans = tensorrt_options.make_settings(
        backend.value,
        {
            "refit": refit,
            "bake": bake,
            "compute_capability": compute_capability,
            "builder_optimization_level": builder_optimization_level,
            "workspace": workspace,
            "max_aux_streams": max_aux_streams,
            "hardware_compatibility_level": hardware_compatibility_level,
            "version_compatible": version_compatible,
            "allow_weight_streaming": allow_weight_streaming,
            "allow_unfused": allow_unfused,
            "memory_limit": memory_limit,
            "no_build_control": no_build_control,
        },
    )
    resolved = _config(
        config, dtype, {"width": width, "height": height, "frames": frames, "batch": batch}
    )
    if plans and resolved.dtype == "fp32" and dtype is None:
        print("TensorRT fuses no fp32 attention: building in bf16 (see --dtype)", file=sys.stderr)
        resolved = resolved.model_copy(update={"dtype": "bf16"})
    request = BuildRequest(
        config=resolved,
        modes=_modes(mode) or MODES,
        ranks=tuple(dict.fromkeys(rank or ())),
        base=base or RANDOM,
        finetuned=finetuned,
        loras=tuple(parse_lora(argument) for argument in lora or ()),
        max_rank=max_rank,
        merge_rest=merge_rest,
        dynamic=dynamic,
        copy=weights is WeightsName.copy,
        verify=verify is VerifyName.diffusers,
        out=out,
        force=force,
        plans=plans,
        command=record_command(context.obj or ()),
    )
    check_usage(request)
    if base is None and config != DEMO and request.needs_base:
        raise UsageError(
            f"{config} needs its checkpoint", "add --base DIR, or --base random to measure speed"
        )
    if dry_run:
        _print_plans(request, quiet)
    else:
        _build(request, quiet)


@app.command()
def plan(
    config: ConfigOption = DEMO,
    rank: Annotated[
        list[int] | None, typer.Option("--rank", min=1, help="Rank of an adapter; repeat.")
    ] = None,
    mode: Annotated[
        list[ModeName] | None, typer.Option("--mode", help="Engines to price; all by default.")
    ] = None,
    dtype: DtypeOption = None,
    width: Width = None,
    height: Height = None,
    frames: Frames = None,
    batch: Batch = None,
    device: Annotated[
        list[str] | None,
        typer.Option(
            "--device", metavar="NAME", help="As H100; cpu is this machine. All by default."
        ),
    ] = None,
    json: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Save it all; - is stdout.")
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Say what engines would cost: bytes, flops, memory, and their speed at best on devices."""
    from wanexport.build.request import MODES, BuildRequest, check_usage
    from wanexport.cost import choose_devices, predict_engines
    from wanexport.tensorrt.progress import Reporter

    resolved = _config(
        config, dtype, {"width": width, "height": height, "frames": frames, "batch": batch}
    )
    if rank is None and set(_modes(mode)) - {"full"}:
        raise UsageError("all modes but full need a rank", "add --rank 32")
    request = BuildRequest(
        config=resolved,
        modes=_modes(mode) or (MODES if rank else ("full",)),
        ranks=tuple(dict.fromkeys(rank or ())),
    )
    check_usage(request)
    with Reporter(quiet=quiet).work("measuring the device"):
        devices = choose_devices(device or (), resolved.dtype)
    _print_costs(request, [predict_engines(request, device) for device in devices], json)


@app.command()
def inspect(
    file: Annotated[str, typer.Argument(help="A LoRA or checkpoint: file, folder or cached id.")],
    config: Annotated[
        str | None, typer.Option("--config", metavar="NAME|FILE", help="What it is meant for.")
    ] = None,
) -> None:
    """Say what a LoRA or checkpoint holds, and what would be applied where."""
    from wanexport.inspection import describe_file, format_description
    from wanexport.model.config import load_config

    description = describe_file(Path(file), load_config(config) if config else None)
    print(format_description(description))


@app.command()
def adapter(
    files: Annotated[list[str], typer.Argument(metavar="FILE[:STRENGTH]...", help="LoRA files.")],
    engine: Annotated[Path, typer.Option("--for", metavar="ENGINE", help="One that can swap.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The canonical adapter.")],
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    quiet: Quiet = False,
) -> None:
    """Make the canonical adapter that an engine loads; several files become one."""
    from wanexport.build.request import parse_lora
    from wanexport.lora.convert import make_canonical
    from wanexport.tensorrt.progress import Reporter

    loras = [parse_lora(file) for file in files]
    rank = make_canonical(loras, engine, output, Reporter(quiet=quiet), force=force)
    print(f"saved {output} (rank {rank})")


def _config(name: str, dtype: DtypeName | None, size: dict[str, int | None]) -> Config:
    from wanexport.model.config import load_config, override

    return override(load_config(name), dtype.value if dtype else None, size)


def _modes(names: list[ModeName] | None) -> tuple[Mode, ...]:
    return tuple(dict.fromkeys(name.value for name in names or ()))


def _build(request: BuildRequest, quiet: bool) -> None:
    from wanexport.cli.build_text import effect_warnings, format_built
    from wanexport.tensorrt.progress import Reporter

    reporter = Reporter(quiet=quiet)
    with reporter.work("loading torch and diffusers"):
        from wanexport.build.recipe import build_engines
    built = build_engines(request, reporter)
    print(format_built(built))
    for warning in effect_warnings(built):
        print(warning, file=sys.stderr)


def _print_plans(request: BuildRequest, quiet: bool) -> None:
    from wanexport.build.request import resolve_request
    from wanexport.build.sources import gather
    from wanexport.build.targets import check_plans, plan_engines
    from wanexport.cli.build_text import format_plans
    from wanexport.storage.disk import check_out
    from wanexport.tensorrt.progress import Reporter

    reporter = Reporter(quiet=quiet)
    check_out(request.out)
    request = resolve_request(request, reporter)
    materials = gather(request, reporter, dry_run=True)
    plans = plan_engines(request, materials)
    print(format_plans(plans, request.out, materials.to_make_bytes))
    check_plans(request.out, plans, materials.to_make_bytes)


def _print_costs(request: BuildRequest, outlooks: Sequence[Outlook], json: Path | None) -> None:
    from wanexport.cli.estimate_text import costs_to_json, render_costs
    from wanexport.cost import price_engines

    costs = price_engines(request)
    to_stdout = json is not None and str(json) == "-"
    print(
        render_costs(request.config, costs, outlooks), file=sys.stderr if to_stdout else sys.stdout
    )
    if to_stdout:
        print(costs_to_json(request.config, costs, outlooks), end="")
    elif json is not None:
        from wanrt.storage.files import write_text

        write_text(json, costs_to_json(request.config, costs, outlooks))
        print(f"saved {json}", file=sys.stderr)


def _fail(message: str, hint: str, code: int = 1) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)
    sys.exit(code)
