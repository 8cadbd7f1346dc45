"""What a plan's builder is asked and what it answers, as JSON between two processes."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from wanexport.errors import BuildError
from wanrt.manifest.fields import Dtype
from wanrt.manifest.plan import HardwareCompatibility, Refit
from wanrt.terminal.units import show_bytes

__all__ = [
    "BuilderJob",
    "BuilderProblem",
    "Finished",
    "Phase",
    "Toolchain",
    "exhausted",
    "is_exhausted",
]

TensorRt = Literal["tensorrt", "tensorrt-rtx"]


class _Message(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Toolchain(_Message):
    """What builds plans here: a library's exact version and, if there is one, the GPU.

    `capabilities` are the compute capabilities (as 8.9) that the library builds for: TensorRT-RTX
    lists them and needs no GPU; TensorRT builds for the GPU it runs on. `no_gpu` says why there is
    none.
    """

    backend: TensorRt
    library: str
    gpu: str | None
    capability: str | None
    capabilities: tuple[str, ...]
    no_gpu: str | None = None


class BuilderJob(_Message):
    """One plan to build, paths absolute.

    Args:
        backend: which library builds it.
        model: the ONNX file.
        plan: where the plan goes; None to parse and check the model only.
        refit: where its weights live; `wanrt.manifest.plan.PlanFile`.
        refittable: initializers that a refit may change one by one (`targets`, `all`).
        capabilities: compute capabilities to build for, as 8.9; empty for the GPU that is here.
        profiles: per workload the shape of every input that has open dimensions.
        dtypes: of every input and output, as the manifest will say.
        attentions: how many attention layers the network has to have.
        timing_cache: a file to read and to write back.
        memory_limit: of the builder's private memory, in bytes.
    """

    backend: TensorRt
    model: str
    plan: str | None
    refit: Refit
    refittable: tuple[str, ...] = ()
    capabilities: tuple[str, ...] = ()
    profiles: tuple[dict[str, tuple[int, ...]], ...] = ()
    dtypes: dict[str, Dtype]
    attentions: int
    optimization_level: int | None = None
    workspace: int | None = None
    aux_streams: int | None = None
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False
    weight_streaming: bool = False
    timing_cache: str | None = None
    memory_limit: int | None = None


class Phase(_Message):
    """A phase of the build began (`done` 0), came a step further, or ended (`done` = `steps`)."""

    kind: Literal["phase"] = "phase"
    name: str
    parent: str | None = None
    done: int
    steps: int


class Finished(_Message):
    """The plan is written; of a model that was only parsed there is none.

    `layers` counts the network's layers by type and dtype; `engine` is TensorRT's own description
    of the built engine, on a machine with a GPU.
    """

    kind: Literal["finished"] = "finished"
    bytes: int = 0
    sha256: str = ""
    layers: dict[str, int]
    engine: str | None = None


class BuilderProblem(_Message):
    """Why there is no plan: what the library said, and what to do about it."""

    kind: Literal["problem"] = "problem"
    message: str
    hint: str


SIGNS = (
    "bad_alloc",
    "MemoryError",
    "OutOfMemory",
    "out of memory",
    "Cannot allocate memory",
    "CHECK(p) failed",  # Myelin's, of what it allocated
    "Resource temporarily unavailable",  # a thread that can't be started
)


def is_exhausted(told: str) -> bool:
    """Tell whether a library or a crashed process ran out of memory, by what it said."""
    return any(sign in told for sign in SIGNS)


def exhausted(limit: int | None) -> BuildError:
    """Return the error of a builder that ran out of its memory."""
    bound = "" if limit is None else f" of {show_bytes(limit)}"
    return BuildError(
        f"the builder ran out of its memory{bound}",
        "raise --memory-limit, or close what else needs memory",
    )
