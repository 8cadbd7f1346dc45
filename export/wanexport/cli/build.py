"""`wanexport build`: one engine per mode and rank."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from wanexport.build.request import MODES, RANDOM, BuildRequest, ExpertChoice, check_usage
from wanexport.cli import tensorrt_options
from wanexport.cli.options import (
    MODEL,
    Batch,
    ConfigName,
    EngineDtype,
    Frames,
    Height,
    ModeName,
    Quiet,
    TargetNames,
    Width,
    choose_modes,
    resolve_config,
)
from wanexport.cli.recorded import record_command
from wanexport.errors import UsageError
from wanexport.lora.find import parse_lora
from wanexport.model.config import DEMO
from wanexport.model.quantization import Scheme
from wanrt.manifest.schema import Backend
from wanrt.storage.files import check_writable, write_text
from wanrt.terminal.progress import Reporter
from wanrt.terminal.screen import print_line

__all__ = ["build"]

SOURCES = "Sources"
OUTPUT = "Output"


def build(
    context: typer.Context,
    base: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|FILE|ID|random",
            help="Base checkpoint: a path, a repository in the Hugging Face cache, or random "
            "weights [default for the demo: random].",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    finetuned: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|FILE|ID",
            help="Checkpoint of the full fine-tune, for the engine 'full'; trained parameters "
            "alone are laid over the base [default: the base].",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    lora: Annotated[
        list[str] | None,
        typer.Option(
            "--lora",
            metavar="FILE[:STRENGTH]",
            help="LoRA file, folder or repository in the Hugging Face cache; repeat to combine.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    lora_high: Annotated[
        list[str] | None,
        typer.Option(
            "--lora-high",
            metavar="FILE[:STRENGTH]",
            help="LoRA for Wan2.2's high-noise expert alone; repeatable.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    lora_low: Annotated[
        list[str] | None,
        typer.Option(
            "--lora-low",
            metavar="FILE[:STRENGTH]",
            help="LoRA for Wan2.2's low-noise expert alone; repeatable.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    prefuse: Annotated[
        list[str] | None,
        typer.Option(
            "--prefuse",
            metavar="FILE[:STRENGTH]",
            help="LoRA to merge into the base of every engine before anything else, such as a "
            "step-distilled one; repeatable.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    skip_image_keys: Annotated[
        bool,
        typer.Option(
            "--skip-image-keys",
            help="Leave out a LoRA's keys for image conditioning, where the model has none: "
            "Wan2.1's image-to-video LoRAs on Wan2.2.",
            rich_help_panel=SOURCES,
        ),
    ] = False,
    expert: Annotated[
        ExpertChoice | None,
        typer.Option(
            help="Which of Wan2.2's two models to build.",
            rich_help_panel=MODEL,
        ),
    ] = None,
    rank: Annotated[
        list[int] | None,
        typer.Option(
            "--rank",
            metavar="N",
            min=1,
            help="Make a random adapter of this rank, instead of reading --lora; repeatable.",
            rich_help_panel=SOURCES,
        ),
    ] = None,
    targets: TargetNames = None,
    config: ConfigName = DEMO,
    dtype: EngineDtype = None,
    width: Width = None,
    height: Height = None,
    frames: Frames = None,
    batch: Batch = None,
    dynamic: Annotated[
        bool,
        typer.Option(
            "--dynamic",
            help="Make one engine for all sizes of the configuration.",
            rich_help_panel=MODEL,
        ),
    ] = False,
    mode: Annotated[
        list[ModeName] | None,
        typer.Option(
            "--mode",
            metavar="|".join(MODES),
            help="How the engine holds the adapter; repeatable [default: all four].",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    backend: Annotated[
        Backend,
        typer.Option(help="Library that runs the engines.", rich_help_panel=OUTPUT),
    ] = "onnxruntime",
    quantize: Annotated[
        Scheme,
        typer.Option(
            metavar="none|int8|fp8|nvfp4",
            help="How the linear layers of the blocks are stored and multiplied: fp8 or int8 with "
            "TensorRT, int8 on ONNX Runtime's CPU, none as --dtype says; nvfp4 is refused.",
            rich_help_panel=OUTPUT,
        ),
    ] = "none",
    quantize_exclude: Annotated[
        list[str] | None,
        typer.Option(
            "--quantize-exclude",
            metavar="GLOB",
            help="Linear layers of the blocks to leave unquantised, by a pattern of diffusers' "
            "names; repeatable.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    max_rank: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Largest adapter rank that a swappable engine accepts [default: the largest "
            "rank given].",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    merge_rest: Annotated[
        bool,
        typer.Option(
            "--merge-rest",
            help="Merge those parts of a LoRA that can't stay separate, such as biases and "
            "norms, into the base.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    split: Annotated[
        bool,
        typer.Option(
            "--split",
            help="Make two graphs: one for what depends on the prompt and the image alone, run "
            "once per prompt, and one for every forward.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    cards: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of GPUs that compute one forward together, each a part of the tokens, "
            "with --backend tensorrt-rtx or TensorRT 11.",
            rich_help_panel=OUTPUT,
        ),
    ] = 1,
    weights: Annotated[
        Literal["link", "copy"],
        typer.Option(
            help="Link to the checkpoint's files, or copy them so that the folder can be moved.",
            rich_help_panel=OUTPUT,
        ),
    ] = "link",
    verify: Annotated[
        Literal["diffusers", "none"],
        typer.Option(
            help="Reference model for the output check; 'none' skips it and leaves linked "
            "weights unread.",
            rich_help_panel=OUTPUT,
        ),
    ] = "diffusers",
    out: Annotated[
        Path,
        typer.Option(
            metavar="DIR", help="Folder to put engine folders into.", rich_help_panel=OUTPUT
        ),
    ] = Path("engines"),
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Rebuild and replace engines that already exist.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show what would be built and why, without building.",
            rich_help_panel=OUTPUT,
        ),
    ] = False,
    json: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Save what was built as JSON, once all of it is; - is standard output.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    refit: tensorrt_options.Refit = None,
    bake: tensorrt_options.Bake = False,
    compute_capability: tensorrt_options.Capability = None,
    builder_optimization_level: tensorrt_options.Level = None,
    workspace: tensorrt_options.Workspace = None,
    max_aux_streams: tensorrt_options.AuxStreams = None,
    hardware_compatibility_level: tensorrt_options.Hardware = "none",
    version_compatible: tensorrt_options.VersionCompatible = False,
    allow_weight_streaming: tensorrt_options.WeightStreaming = False,
    allow_unfused: tensorrt_options.AllowUnfused = False,
    lora_form: tensorrt_options.LoraForm = None,
    pad_rank: tensorrt_options.PadRank = 1,
    memory_limit: tensorrt_options.MemoryLimit = None,
    no_build_control: tensorrt_options.NoControl = False,
    quiet: Quiet = False,
) -> None:
    """Build one engine per mode and rank.

    Engines that exist and are up to date are kept. Without --config and --base, it builds the
    demo: a small model with random weights.
    """
    settings = tensorrt_options.make_settings(
        backend,
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
            "lora_form": lora_form,
            "pad_rank": pad_rank,
            "memory_limit": memory_limit,
            "no_build_control": no_build_control,
        },
    )
    resolved = resolve_config(config, dtype, width=width, height=height, frames=frames, batch=batch)
    if settings and resolved.dtype == "fp32" and dtype is None:
        print(
            "TensorRT has no fused kernel for fp32 attention, so this builds in bf16 (see --dtype)",
            file=sys.stderr,
        )
        resolved = resolved.model_copy(update={"dtype": "bf16"})
    request = BuildRequest(
        config=resolved,
        modes=choose_modes(mode) or MODES,
        ranks=tuple(dict.fromkeys(rank or ())),
        base=RANDOM if base is None and config == DEMO else base,
        finetuned=finetuned,
        loras=(
            *(parse_lora(argument) for argument in lora or ()),
            *(parse_lora(argument, "high") for argument in lora_high or ()),
            *(parse_lora(argument, "low") for argument in lora_low or ()),
        ),
        prefuse=tuple(parse_lora(argument) for argument in prefuse or ()),
        expert=expert,
        skip_image_keys=skip_image_keys,
        targets=tuple(targets or ()),
        quantize=quantize,
        quantize_exclude=tuple(quantize_exclude or ()),
        max_rank=max_rank,
        merge_rest=merge_rest,
        dynamic=dynamic,
        split=split,
        cards=cards,
        copy=weights == "copy",
        verify=verify == "diffusers",
        out=out,
        force=force,
        tensorrt=settings,
        command=record_command(context.obj or ()),
    )
    check_usage(request)
    if request.base is None and request.needs_base:
        raise UsageError(
            f"{config} needs its checkpoint", "add --base DIR, or --base random to measure speed"
        )
    if json is not None and dry_run:
        raise UsageError("--json says what was built, and --dry-run builds nothing", "drop one")
    if json is not None and str(json) != "-":
        check_writable(json, kind=rb'\{\s*"schema"', force=force)
    reporter = Reporter(quiet=quiet)
    if dry_run:
        _print_targets(request, reporter)
    else:
        _build(request, reporter, json, context.obj or ())


def _build(
    request: BuildRequest, reporter: Reporter, json: Path | None, argv: Sequence[str]
) -> None:
    from wanexport.cli.text.build import built_to_json, effect_warnings, format_built

    start = time.monotonic()
    with reporter.work("loading torch and diffusers"):
        from wanexport.build.recipe import build_engines
    built = build_engines(request, reporter)
    to_stdout = json is not None and str(json) == "-"
    print_line(format_built(built), sys.stderr if to_stdout else sys.stdout)
    if json is not None:
        text = built_to_json(built, argv, time.monotonic() - start)
        if to_stdout:
            print_line(text, end="")
        else:
            write_text(json, text)
    for warning in effect_warnings(built):
        print_line(warning, sys.stderr)


def _print_targets(request: BuildRequest, reporter: Reporter) -> None:
    from wanexport.build.experts import gather_targets
    from wanexport.build.request import resolve_request
    from wanexport.build.targets import check_targets
    from wanexport.cli.text.build import format_targets
    from wanexport.storage.disk import check_out

    check_out(request.out)
    request = resolve_request(request, reporter)
    targets, to_make_bytes = gather_targets(request, reporter, dry_run=True)
    print_line(format_targets(targets, request.out, to_make_bytes))
    check_targets(request.out, targets, to_make_bytes)
