"""The engines of a request, each with everything needed to build it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from wanexport.build.sources import AdapterSet, Weights
from wanexport.errors import BuildError
from wanexport.lora.adapter import Adapter
from wanexport.model.config import Config, Size
from wanexport.model.quantization import Format
from wanexport.storage.disk import check_disk
from wanexport.tensorrt.settings import PlanSettings
from wanrt.manifest.schema import Backend, Expert, Mode

__all__ = ["Action", "Target", "check_targets"]

Action = Literal["build", "reuse", "replace", "conflict", "foreign"]


@dataclass(frozen=True)
class Target:
    """One engine of a request.

    Args:
        name: its folder's name.
        out: the folder that it goes to, beside what engines share.
        config: model, size and dtype.
        mode: full, merged, separate or swappable.
        weights: the checkpoint it is made from.
        shapes: of the model's parameters.
        adapters: none (full), the one it carries, or those that ship with a swappable engine.
        ranks: module -> rank of the low-rank branch in its graph.
        joined: modules of these whose branch is part of their own product.
        quantized: modules whose weights are stored and multiplied in 8 bits.
        form: how.
        excluded: the patterns of those of the blocks that aren't, where any are.
        span: the base and the full fine-tune, between which its fidelity is measured; None without
            both, or without engines that carry an adapter.
        max_rank: of a swappable engine.
        swap_rank: the rank that a merged engine can exchange in its weights; None if it can't.
        expert: which of Wan2.2's two models it is.
        target_set: what people call the modules that are adapted, where that has a name.
        dynamic: batch, frames, height and width are open.
        split: what depends on the prompt and the image alone is a graph of its own.
        cards: how many compute its forward together.
        copy: weights are copied into it instead of linked.
        verify: it is compared with diffusers' model before it exists.
        force: an engine that was made from something else makes way.
        tensorrt: how its TensorRT plan is built; None for ONNX Runtime.
        control: `full` built once more, its TensorRT plan without the timing cache.
        command: the arguments that asked for it.
        inputs: all that decides whether an existing engine is this one.
        action: what a build does with the folder, and why.
        write_bytes: about what a build writes.
        plan_bytes: of what a build writes, the TensorRT plan.
        memory_bytes: about the build's peak of anonymous memory, with its verification.
    """

    name: str
    out: Path
    config: Config
    mode: Mode
    weights: Weights
    shapes: Mapping[str, tuple[int, ...]]
    adapters: tuple[AdapterSet, ...] = ()
    ranks: Mapping[str, int] = field(default_factory=dict)
    joined: tuple[str, ...] = ()
    quantized: tuple[str, ...] = ()
    form: Format | None = None
    excluded: tuple[str, ...] = ()
    span: tuple[Weights, Weights] | None = None
    max_rank: int | None = None
    swap_rank: int | None = None
    expert: Expert | None = None
    target_set: str | None = None
    dynamic: bool = False
    split: bool = False
    cards: int = 1
    copy: bool = False
    verify: bool = True
    force: bool = False
    tensorrt: PlanSettings | None = None
    control: bool = False
    command: tuple[str, ...] = ()
    inputs: Mapping[str, str] = field(default_factory=dict)
    action: Action = "build"
    reason: str = ""
    write_bytes: int = 0
    plan_bytes: int = 0
    memory_bytes: int = 0

    @property
    def folder(self) -> Path:
        """Where the engine will be."""
        return self.out / self.name

    @property
    def backend(self) -> Backend:
        """What executes it."""
        return self.tensorrt.backend if self.tensorrt else "onnxruntime"

    @property
    def sizes(self) -> tuple[Size, ...]:
        """The sizes that it takes."""
        return (self.config.size, *(self.config.dynamic_sizes if self.dynamic else ()))

    @property
    def carried(self) -> tuple[AdapterSet | None, ...]:
        """The adapters that the engine can run with, one at a time."""
        return self.adapters or (None,)

    @property
    def all_adapters(self) -> tuple[Adapter, ...]:
        """Every LoRA file that takes part, prefused ones first."""
        fused = (one.adapter for one in self.weights.prefuse)
        return (*fused, *(adapter for s in self.adapters for adapter in s.adapters))

    @property
    def branch_names(self) -> list[str]:
        """The names of the low-rank branches' matrices, in the graph's order."""
        return [f"{module}.{part}" for module in self.ranks for part in ("lora_A", "lora_B")]

    @property
    def rank(self) -> int | None:
        """The adapter's rank, where the engine is bound to one."""
        return self.adapters[0].rank if self.mode in ("merged", "separate") else None


def check_targets(out: Path, targets: Sequence[Target], also_bytes: int = 0) -> None:
    """Refuse targets that can't be made.

    Args:
        out: where the engines go.
        targets: all engines of a request.
        also_bytes: what is written besides them.

    Raises:
        BuildError: an engine of that name was made from something else, or the disk is too small.
    """
    for target in targets:
        if target.action == "conflict":
            raise BuildError(
                f"engine {target.name} already exists: {target.reason}",
                "replace it with --force, or build into another folder with --out",
            )
        if target.action == "foreign":
            raise BuildError(
                f"{target.folder} can't be replaced, even with --force: {target.reason}",
                "move it away, or build into another folder with --out",
            )
    check_disk(out, also_bytes + sum(target.write_bytes for target in targets))
