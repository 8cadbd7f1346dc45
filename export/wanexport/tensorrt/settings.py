"""Settings of TensorRT plans: the user's, completed from this machine's library and GPU."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import psutil

from wanexport.errors import BuildError, ConfigError, UsageError
from wanexport.storage.source_hash import hash_packages
from wanexport.tensorrt.builder import find_toolchain
from wanexport.tensorrt.protocol import TensorRt, Toolchain
from wanrt.manifest.plan import HardwareCompatibility, Refit

__all__ = ["PlanSettings", "resolve_settings"]

BIASES_AT_RISK = "11.3."  # its release notes: plans with REFIT may lose the bias of a Gemm
USABLE = 0.9  # of the memory that is free, unless the user says otherwise


@dataclass(frozen=True)
class PlanSettings:
    """The settings of a request's plans, named as trtexec names them where it does.

    Args:
        backend: which library builds and runs them.
        refit: where weights live; `wanrt.manifest.plan.PlanFile`. None: `none` for the GPU that is
            here, `baked` for others, since no plan without its weights can be built there.
        capabilities: compute capabilities to build for, as 8.9 (TensorRT-RTX). None given: of the
            GPU that is here, or without one all that the library knows.
        optimization_level: of the builder, 0 to 5.
        workspace: most bytes of scratch memory that a kernel may use.
        aux_streams: most streams that an engine may add to the caller's.
        hardware_compatibility: run on other GPUs than the one built on (TensorRT).
        version_compatible: run with later versions of the library.
        weight_streaming: let the runtime keep weights in host memory (--weight-streaming).
        allow_unfused: accept an attention that TensorRT has no fused kernel for.
        lora_form: how unmerged adapters are computed; None: whichever moves fewer bytes, layer by
            layer. No part of a plan's settings: the graph differs.
        pad_rank: what the rank of a branch is a multiple of, filled with zeros; of 64, a fused
            product's sum is as long as tensor cores like. The graph differs here too.
        memory_limit: of the builder's private memory, in bytes.
        control: build `full` once more without the timing cache, as a bench's build control.
        toolchain: what builds here, once resolved.
    """

    backend: TensorRt
    refit: Refit | None = None
    capabilities: tuple[str, ...] = ()
    optimization_level: int | None = None
    workspace: int | None = None
    aux_streams: int | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    weight_streaming: bool = False
    allow_unfused: bool = False
    lora_form: Literal["branch", "fused"] | None = None
    pad_rank: int = 1
    memory_limit: int | None = None
    control: bool = True
    toolchain: Toolchain | None = None

    @property
    def label(self) -> str:
        """What engine names call them."""
        targets = "".join(f"-sm{c.replace('.', '')}" for c in self.capabilities)
        return f"{self.backend}-{self.refit}{targets}"

    def pad(self, rank: int) -> int:
        """Return the rank that a branch of this rank gets."""
        return math.ceil(rank / self.pad_rank) * self.pad_rank

    @property
    def shaping(self) -> dict[str, object]:
        """The settings that shape an engine; other values make another engine."""
        kept = asdict(self)
        for apart in ("lora_form", "pad_rank", "memory_limit", "control", "toolchain"):
            del kept[apart]
        assert self.toolchain is not None
        return kept | {
            "code": code_hash(),
            "library": self.toolchain.library,
            "gpu": self.toolchain.gpu,
            "built_for": self.built_for,
        }

    @property
    def runs_here(self) -> bool:
        """Whether the GPU that is here is one that plans are built for."""
        assert self.toolchain is not None
        return self.toolchain.capability in self.built_for

    @property
    def lacks_exchanges(self) -> bool:
        """Whether the library is too old for all_to_all among GPUs (10.16 and before)."""
        assert self.toolchain is not None
        return self.backend == "tensorrt" and int(self.toolchain.library.split(".")[0]) < 11

    @property
    def built_for(self) -> tuple[str, ...]:
        """The compute capabilities that plans run on."""
        assert self.toolchain is not None
        if self.capabilities:
            return self.capabilities
        here = self.toolchain.capability
        return (here,) if here else self.toolchain.capabilities


def resolve_settings(settings: PlanSettings) -> PlanSettings:
    """Fill in what was left open, from the library and the GPU that are here.

    Raises:
        BuildError: the library isn't installed, or `tensorrt` finds no GPU.
        UsageError: a flag is the other library's.
        ConfigError: what is asked can't be had of this library.
    """
    toolchain = find_toolchain(settings.backend)
    resolved = replace(settings, toolchain=toolchain)
    here = resolved.runs_here and len(resolved.built_for) == 1
    refit = settings.refit or ("none" if here else "baked")
    resolved = replace(resolved, refit=refit)
    _check_capabilities(resolved, toolchain)
    _check_refit(resolved, toolchain)
    if settings.memory_limit is None:
        limit = int(psutil.virtual_memory().available * USABLE)
        resolved = replace(resolved, memory_limit=limit)
    return resolved


def _check_capabilities(settings: PlanSettings, toolchain: Toolchain) -> None:
    if settings.capabilities and settings.backend == "tensorrt":
        raise UsageError(
            "TensorRT builds for the GPU that is here, not for --compute-capability",
            "for other GPUs: --hardware-compatibility-level ampere+, or --backend tensorrt-rtx",
        )
    if settings.hardware_compatibility != "none" and settings.backend == "tensorrt-rtx":
        raise UsageError(
            "TensorRT-RTX has no --hardware-compatibility-level",
            "name the GPUs it is to run on: --compute-capability 89,120",
        )
    for capability in settings.built_for if settings.backend == "tensorrt-rtx" else ():
        if capability not in toolchain.capabilities:
            known = ", ".join(c.replace(".", "") for c in toolchain.capabilities)
            raise ConfigError(
                f"TensorRT-RTX {toolchain.library} doesn't build for compute capability "
                f"{capability.replace('.', '')}",
                f"it builds for {known}; for data-center GPUs use --backend tensorrt there",
            )


def _check_refit(settings: PlanSettings, toolchain: Toolchain) -> None:
    refit = settings.refit
    if settings.version_compatible and settings.backend == "tensorrt-rtx":
        raise UsageError(
            "TensorRT-RTX builds no version-compatible plans", "drop --version-compatible"
        )
    if refit == "baked":
        return
    if toolchain.gpu is None:
        raise BuildError(
            f"a plan of --refit {refit} can't be built without a GPU and its driver",
            "put the weights into the plan with --bake, or build on the GPU that is to run it",
        )
    if len(settings.built_for) > 1:
        raise ConfigError(
            f"a plan of --refit {refit} is for one compute capability, not for "
            f"{len(settings.built_for)}",
            "give one --compute-capability, or put the weights into the plan with --bake",
        )
    if settings.version_compatible:
        raise ConfigError(
            f"--version-compatible and --refit {refit} can't be combined: version-compatible plans "
            "can't be refitted",
            "put the weights into it with --bake, or drop --version-compatible",
        )
    if refit in ("targets", "all") and toolchain.library.startswith(BIASES_AT_RISK):
        raise ConfigError(
            f"TensorRT {toolchain.library} may lose a bias in a plan of --refit {refit}",
            "upgrade to 11.4, or use --refit none",
        )


def code_hash() -> str:
    """Hash the package that makes a plan of its job, so that no plan outlives the code."""
    return hash_packages(Path(__file__).parents[1], ("tensorrt",))[:12]
