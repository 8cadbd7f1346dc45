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


RefitName = Literal["none", "targets", "all"]
LoraFormName = Literal["branch", "fused"]

Refit = Annotated[
    RefitName | None,
    typer.Option(help="Weights outside the plan: none may change, the adapter's, or all."),
]
Bake = Annotated[bool, typer.Option("--bake", help="Weights inside the plan; needs no GPU.")]
Capability = Annotated[
    str | None,
    typer.Option("--compute-capability", metavar="89,120", help="GPUs to build for (RTX)."),
]
Level = Annotated[
    int | None,
    typer.Option(min=0, max=5, help="TensorRT's effort, 0 to 5."),
]
Workspace = Annotated[
    str | None,
    typer.Option("--workspace", metavar="4GiB", help="Scratch memory of a kernel."),
]
AuxStreams = Annotated[
    int | None,
    typer.Option(min=0, max=64, help="Streams beside the caller's."),
]
Hardware = Annotated[
    HardwareCompatibility,
    typer.Option(case_sensitive=False, help="Other GPUs to run on (TensorRT)."),
]
VersionCompatible = Annotated[
    bool,
    typer.Option("--version-compatible", help="Run with later versions."),
]
WeightStreaming = Annotated[
    bool,
    typer.Option("--allow-weight-streaming", help="Let wanrt keep weights in host memory."),
]
AllowUnfused = Annotated[
    bool, typer.Option("--allow-unfused", help="Accept attention without a fused kernel.")
]
LoraForm = Annotated[
    LoraFormName | None,
    typer.Option(
        "--lora-form",
        help="Unmerged adapters: beside their layer, or inside its product [default: by bytes].",
    ),
]
MemoryLimit = Annotated[
    str | None,
    typer.Option("--memory-limit", metavar="48GiB", help="Of the builder; 90 % of what is free."),
]
NoControl = Annotated[
    bool,
    typer.Option("--no-build-control", help="Don't build full again as a bench's control."),
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
                f"--{given.replace('_', '-')} is TensorRT's",
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
        memory_limit=_bytes("memory-limit", flags["memory_limit"]),
        control=not flags["no_build_control"],
    )


def _is_given(flag: str, value: object) -> bool:
    if flag == "hardware_compatibility_level":
        return value != "none"
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
                f"--compute-capability {text}: {word.strip()!r} is none",
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
        raise ConfigError(f"--{flag} {text} is no size", "write it as 4GiB") from None
    if not 0 < size < 1 << 48:
        raise ConfigError(f"--{flag} {text}: no machine has that", "write it as 4GiB")
    return size
