"""What engine.json says of where an engine's values come from, and how far they can be trusted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from wanrt.manifest.fields import Count, Dtype, Part, Sha256

__all__ = ["Fidelity", "Prefused", "Quantization", "ScaleFrom", "Source", "Verification"]

ScaleFrom = Literal["alpha", "metadata", "sidecar", "none"]
Granularity = Literal["tensor", "channel", "token", "block"]


class Source(Part):
    """A file the engine was made from, by content.

    `scheme` says how the file itself is quantised (fp8, fp8_scaled, gguf:Q8_0), `scale_from` where
    a LoRA's scale comes from: alpha tensors, the header's metadata, a file beside it, or nothing.
    """

    path: str
    sha256: Sha256
    strength: float | None = None
    scheme: str | None = None
    scale_from: ScaleFrom | None = None


class Prefused(Part):
    """A LoRA that was merged into the base of every mode before anything else."""

    name: str
    sha256: Sha256
    strength: float


class Quantization(Part):
    """How the base's block linears are stored and multiplied; all else has the engine's dtype.

    `weights` and `activations` say what shares a scale; activations null: they aren't quantised.
    `excluded` are patterns of modules left as they are. `origin`: quantised from the pristine
    weights, or as the checkpoint was.
    """

    scheme: Literal["fp8", "int8", "nvfp4"]
    weights: Granularity
    activations: Granularity | None
    excluded: tuple[str, ...] = ()
    origin: Literal["pristine", "checkpoint"]


class Fidelity(Part):
    """How much of a full fine-tune's effect the engine keeps: 1 is all, 0 as little as the base.

    `keeps` has a share per stack of a swappable engine, otherwise one. `timesteps` are those of the
    inputs; `finetuned` is what it was measured against: the SHA-256 of each file of the fine-tune.
    """

    keeps: tuple[float, ...] = Field(min_length=1)
    timesteps: tuple[float, ...]
    finetuned: tuple[Sha256, ...]


class Verification(Part):
    """How far the engine's outputs are from diffusers' own model in fp32 (relative L2).

    `reference_error` is PyTorch's own error in the engine's dtype; `adapter_effect` is how far the
    adapter moves the output, which must exceed the error to mean anything. `plan_error` is that of
    the TensorRT plan itself on the GPU that built it, `emulated_error` that of the graph that
    emulates a bf16 one on a CPU. `adapter_oracle` is who else read the LoRA's scale.
    """

    method: Literal["blocks", "none"]
    dtype: Dtype | None = None
    tokens: Count | None = None
    error: float | None = None
    tolerance: float | None = None
    reference_error: float | None = None
    adapter_effect: float | None = None
    plan_error: float | None = None
    emulated_error: float | None = None
    adapter_oracle: Literal["peft", "diffusers"] | None = None
    fidelity: Fidelity | None = None

    @property
    def own_error(self) -> float | None:
        """The error of what runs: the plan's where it was measured, else the graph's."""
        return self.error if self.plan_error is None else self.plan_error
