"""What engine.json says of a TensorRT plan: how it was built, its weights, how it swaps."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import Field

from wanrt.manifest.fields import (
    Count,
    Dtype,
    File,
    Part,
    Positive,
    RelativePath,
    Sha256,
    TensorSpec,
)

__all__ = ["HardwareCompatibility", "MergePlan", "PlanFile", "Refit", "Swap", "WeightRange"]

Refit = Literal["baked", "none", "targets", "all"]
HardwareCompatibility = Literal["none", "ampere+", "samecomputecapability"]


class WeightRange(Part):
    """The bytes of a weight file that hold one initializer, row by row."""

    file: RelativePath
    offset: Count
    bytes: Count
    dtype: Dtype


class MergePlan(File):
    """A plan that merges one matrix on the device: W + B A in fp32, rounded once.

    Its inputs are `weight` [out, in], `lora_A` [max_rank, in] and `lora_B` [out, max_rank], the
    last two in fp32; its output `merged` is like `weight`. `shape` is [out, in].
    """

    shape: tuple[Positive, Positive]
    max_rank: Positive


class Swap(Part):
    """How a merged engine exchanges its adapter in place, by refitting what the adapter changes.

    `inputs` are the adapter's matrices as a canonical adapter names them, `base` the pristine
    values of every parameter that the built-in adapter changed or another one may change.
    """

    inputs: tuple[TensorSpec, ...]
    base: dict[str, WeightRange]
    merges: tuple[MergePlan, ...]


class PlanFile(File):
    """The serialized TensorRT engine of a graph, and what it may be run with.

    A plan runs with the exact library version that built it unless `version_compatible`, and on
    the GPU named, or, where it was built without one, on those of `compute_capabilities`.

    `refit` says where weights live: `baked` in the plan; else in the folder's weight files, from
    where a refitter takes what `weights` names. `none` binds the plan to the very bytes it was
    built with, `targets` frees the adapter's matrices, `all` every initializer. `key` names what
    shaped the plan: engines of one key share one file. `profiles` are the workloads that the
    optimization profiles are for, in order. `control` marks a build without the timing cache.
    """

    key: Sha256
    library: str
    gpu: str | None
    compute_capabilities: tuple[Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]$")], ...]
    hardware_compatibility: HardwareCompatibility
    version_compatible: bool
    refit: Refit
    weight_streaming: bool
    profiles: tuple[str, ...]
    weights: dict[str, WeightRange]
    swap: Swap | None = None
    layers: File | None = None
    control: bool = False

    def check(self, mode: str, weights: Mapping[str, int], workloads: Collection[str]) -> None:
        """Check the plan against the rest of its manifest.

        Args:
            mode: the engine's.
            weights: the bytes of each of its weight files.
            workloads: their names.

        Raises:
            ValueError: it says what the rest contradicts.
        """
        swapped = self.swap.base if self.swap else {}
        for name, part in (*self.weights.items(), *swapped.items()):
            if part.offset + part.bytes > weights.get(part.file, 0):
                raise ValueError(f"{name} is outside the weight files")
        if self.refit == "baked" and self.weights:
            raise ValueError("a baked plan takes no weights")
        if self.swap and (mode != "merged" or self.refit not in ("targets", "all")):
            raise ValueError(f"a {mode} engine of refit {self.refit} can't swap in place")
        if sorted(self.profiles) != sorted(workloads):
            raise ValueError("the plan's profiles aren't the workloads")
