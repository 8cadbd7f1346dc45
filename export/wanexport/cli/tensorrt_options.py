"""The flags of `wanexport build` that are TensorRT's; trtexec's spelling works too."""

from __future__ import annotations

import re
from typing import Annotated, Literal, TypedDict

import typer

from wanexport.errors import ConfigError, UsageError
from wanexport.tensorrt.settings import PlanSettings
from wanrt.manifest.plan import HardwareCompatibility
from wanrt.manifest.schema import Backend
from wanrt.terminal.units import parse_bytes

__all__ = ["PlanFlags", "make_settings", "respell"]

TENSORRT = "TensorRT"

RefitName = Literal["none", "targets", "all"]
LoraFormName = Literal["branch", "fused"]

Refit = Annotated[
    RefitName | None,
    typer.Option(
        help="Keep the weights outside the plan, where none of them, the adapter's or all can be "
        "exchanged later [default: none].",
        rich_help_panel=TENSORRT,
    ),
]
Bake = Annotated[
    bool,
    typer.Option(
        "--bake",
        help="Put all weights into the plan [default for GPUs that aren't in this machine].",
        rich_help_panel=TENSORRT,
    ),
]
Capability = Annotated[
    str | None,
    typer.Option(
        "--compute-capability",
        metavar="89,120",
        help="Compute capabilities to build for, TensorRT-RTX only [default: this machine's "
        "GPU, or all without one].",
        rich_help_panel=TENSORRT,
    ),
]
Level = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        max=5,
        help="How long the builder searches for faster kernels [default: TensorRT's].",
        rich_help_panel=TENSORRT,
    ),
]
Workspace = Annotated[
    str | None,
    typer.Option(
        "--workspace",
        metavar="SIZE",
        help="Most scratch memory that a kernel may use, such as 4GiB [default: TensorRT's].",
        rich_help_panel=TENSORRT,
    ),
]
AuxStreams = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        max=64,
        help="Most CUDA streams that the plan may use beside the caller's [default: TensorRT's].",
        rich_help_panel=TENSORRT,
    ),
]
Hardware = Annotated[
    HardwareCompatibility,
    typer.Option(
        case_sensitive=False,
        help="Other GPUs that the plan can run on, TensorRT only.",
        rich_help_panel=TENSORRT,
    ),
]
VersionCompatible = Annotated[
    bool,
    typer.Option(
        "--version-compatible",
        help="Build a plan that later versions of TensorRT can run; needs --bake.",
        rich_help_panel=TENSORRT,
    ),
]
WeightStreaming = Annotated[
    bool,
    typer.Option(
        "--allow-weight-streaming",
        help="Build a plan whose weights can stay in host memory (wanrt --weight-streaming).",
        rich_help_panel=TENSORRT,
    ),
]
AllowUnfused = Annotated[
    bool,
    typer.Option(
        "--allow-unfused",
        help="Accept a plan in which attention has no fused kernel.",
        rich_help_panel=TENSORRT,
    ),
]
LoraForm = Annotated[
    LoraFormName | None,
    typer.Option(
        "--lora-form",
        help="Compute an unmerged adapter beside its layer, or in one product with it [default: "
        "whichever moves fewer bytes].",
        rich_help_panel=TENSORRT,
    ),
]
PadRank = Annotated[
    int,
    typer.Option(
        "--pad-rank",
        metavar="N",
        min=1,
        max=1024,
        help="Fill an unmerged adapter's rank up with zeros to a multiple of N, such as 64.",
        rich_help_panel=TENSORRT,
    ),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        "--memory-limit",
        metavar="SIZE",
        help="Memory limit of the TensorRT builder process, such as 48GiB [default: 90% of free "
        "memory].",
        rich_help_panel=TENSORRT,
    ),
]
NoControl = Annotated[
    bool,
    typer.Option(
        "--no-build-control",
        help="Don't build 'full' a second time as a control for benches.",
        rich_help_panel=TENSORRT,
    ),
]


class PlanFlags(TypedDict):
    """The flags as they were given."""

    refit: RefitName | None
    bake: bool
    compute_capability: str | None
    builder_optimization_level: int | None
    workspace: str | None
    max_aux_streams: int | None
    hardware_compatibility_level: HardwareCompatibility
    version_compatible: bool
    allow_weight_streaming: bool
    allow_unfused: bool
    lora_form: LoraFormName | None
    pad_rank: int
    memory_limit: str | None
    no_build_control: bool


def respell(flag: str) -> str:
    """Return trtexec's spelling of a flag as ours: builderOptimizationLevel, memPoolSize."""
    if flag == "memPoolSize":
        return "workspace"
    return re.sub(r"(?<=[a-z])[A-Z]", lambda match: f"-{match[0].lower()}", flag)


def make_settings(backend: Backend, flags: PlanFlags) -> PlanSettings | None:
    """Return the settings of the plans asked for; None for engines that have none.

    Raises:
        UsageError: flags contradict one another, or need a TensorRT backend.
        ConfigError: a value can't be read.
    """
    if backend == "onnxruntime":
        given = next((name for name, value in flags.items() if _is_given(name, value)), None)
        if given:
            raise UsageError(
                f"--{given.replace('_', '-')} applies to TensorRT engines only",
                "add --backend tensorrt or --backend tensorrt-rtx",
            )
        return None
    refit = flags["refit"]
    if flags["bake"] and refit is not None:
        raise UsageError(
            f"--bake puts the weights into the plan, --refit {refit} leaves them out",
            "drop one of the two",
        )
    return PlanSettings(
        backend=backend,
        refit="baked" if flags["bake"] else refit,
        capabilities=_capabilities(flags["compute_capability"]),
        optimization_level=flags["builder_optimization_level"],
        workspace=_bytes("workspace", flags["workspace"]),
        aux_streams=flags["max_aux_streams"],
        hardware_compatibility=flags["hardware_compatibility_level"],
        version_compatible=flags["version_compatible"],
        weight_streaming=flags["allow_weight_streaming"],
        allow_unfused=flags["allow_unfused"],
        lora_form=flags["lora_form"],
        pad_rank=flags["pad_rank"],
        memory_limit=_bytes("memory-limit", flags["memory_limit"]),
        control=not flags["no_build_control"],
    )


def _is_given(flag: str, value: object) -> bool:
    if flag == "hardware_compatibility_level":
        return value != "none"
    if flag == "pad_rank":
        return value != 1
    return not (value is None or value is False)


def _capabilities(text: str | None) -> tuple[str, ...]:
    """Parse 89,120 or 8.9,12.0."""
    if text is None:
        return ()
    found = []
    for word in text.split(","):
        match = re.fullmatch(r"\s*(?:sm_?)?(\d{1,2})\.?(\d)\s*", word, re.IGNORECASE)
        if match is None:
            raise ConfigError(
                f"--compute-capability {text}: {word.strip()!r} isn't a compute capability",
                "write it as 89 or 8.9, several with commas",
            )
        found.append(f"{match[1]}.{match[2]}")
    return tuple(dict.fromkeys(found))


def _bytes(flag: str, text: str | None) -> int | None:
    """Parse 4GiB; of trtexec's `workspace:4096` the number is in MiB and K, M and G are binary."""
    if text is None:
        return None
    theirs = re.fullmatch(r"workspace:([0-9.]+)([KMG]?)(?:iB|B)?", text)
    plain = f"{theirs[1]}{theirs[2] or 'M'}iB" if theirs else text
    try:
        size = parse_bytes(plain)
    except ValueError:
        raise ConfigError(f"--{flag} {text} isn't a size with a unit", "write it as 4GiB") from None
    if not 0 < size < 1 << 48:
        raise ConfigError(f"--{flag} {text}: no machine has that", "write it as 4GiB")
    return size
