"""engine.json: the contract between the exporter, the runtimes and everybody else.

`engines/README.md` is its specification and `engines/engine.schema.json` the JSON Schema generated
from these models; a test keeps the three together.
"""

from __future__ import annotations

import json
import shlex
from typing import Annotated, Literal

from pydantic import Field, model_validator

from wanrt.manifest.fields import (
    ADAPTER_ROLES,
    Count,
    Dtype,
    File,
    Instant,
    Part,
    Positive,
    TensorSpec,
)
from wanrt.manifest.origin import Prefused, Quantization, Source, Verification
from wanrt.manifest.plan import PlanFile

__all__ = ["SCHEMA_VERSION", "Manifest"]

SCHEMA_VERSION = 1

Mode = Literal["full", "merged", "separate", "swappable"]
Backend = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
LoraForm = Literal["branch", "fused"]
Expert = Literal["high", "low"]
ONE_GRAPH = {"forward"}
SPLIT = {"context", "denoise"}


class Graph(File):
    """One ONNX graph of the engine; its weights lie in the files listed by the manifest.

    `weight_bytes` counts the ranges of those files that its initializers refer to: what a backend
    loads, and often less than the files. `emulated` is the same graph for a CPU that lacks its
    dtype, over the same weights.
    """

    weight_bytes: Count
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    plan: PlanFile | None = None
    emulated: File | None = None

    @property
    def adapter_inputs(self) -> tuple[TensorSpec, ...]:
        """The matrices of a canonical adapter that this graph takes: as inputs, or merged."""
        if self.plan is not None and self.plan.swap is not None:
            return self.plan.swap.inputs
        return tuple(spec for spec in self.inputs if spec.role in ADAPTER_ROLES)


class ContextCost(Part):
    """What one run of a split engine's context graph takes, as a workload counts it."""

    flops: dict[str, Count]
    bytes: dict[str, Count]


class Workload(Part):
    """A named set of input shapes, and what one forward of it takes.

    `tokens` counts one sample's latent patches; tokens per second is batch x tokens / seconds of
    one forward. `flops` counts multiply and add as two, for the whole batch, by part. `bytes` is
    the memory traffic that an ideally fused forward can't avoid, weights included, by the same
    parts and those that move bytes without counted flops. `activation_bytes` is the most that one
    layer needs at a time. With a `context` both counts are those of `denoise` alone.
    """

    width: Count
    height: Count
    frames: Count
    batch: Positive
    tokens: Positive
    shapes: dict[str, tuple[Count, ...]]
    flops: dict[str, Count]
    bytes: dict[str, Count]
    activation_bytes: Count
    context: ContextCost | None = None


class WeightFile(File):
    """A safetensors file that the graphs reference by byte range.

    Written once and linked afterwards, so a change of size or mtime means that the folder was
    copied, or that somebody wrote over the bytes the engine runs with.
    """

    mtime_ns: Instant
    origin: Literal["base", "finetuned", "prefused", "adapter", "merged", "constants"]
    storage: Literal["reflink", "hardlink", "pool", "copy", "own"]


class AdapterFile(File):
    """A canonical adapter that ships inside a swappable engine's folder.

    Those of one `stack` are loaded together, each at its `strength`; stacks are alternatives.
    """

    rank: Positive
    strength: float = 1.0
    stack: Count = 0


class Manifest(Part):
    """What engine.json says. Everything a runtime needs, nothing it has to guess.

    `command` are the arguments of the `wanexport` that made the engine; paths in it count from
    where that ran. Engines of the same `compared_by` are compared with each other.
    """

    schema_version: Literal[1]
    name: str
    model: str
    mode: Mode
    rank: Positive | None
    max_rank: Positive | None = None
    targets: tuple[str, ...]
    target_set: str | None = None
    lora_form: LoraForm | None = None
    expert: Expert | None = None
    prefuse: tuple[Prefused, ...] = ()
    quantization: Quantization | None = None
    cards: Positive = 1
    dtype: Dtype
    backend: Backend
    random_weights: bool
    full_finetune: bool
    graphs: dict[str, Graph]
    workloads: dict[str, Workload]
    weights: tuple[WeightFile, ...]
    adapters: tuple[AdapterFile, ...] = ()
    sources: tuple[Source, ...]
    config: dict[str, object]
    command: tuple[str, ...]
    compared_by: Annotated[dict[str, str], Field(min_length=1)]
    inputs: dict[str, str]
    tools: dict[str, str]
    verification: Verification

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if set(self.graphs) not in (ONE_GRAPH, SPLIT):
            raise ValueError("graphs are neither 'forward' nor 'context' and 'denoise'")
        if not self.workloads:
            raise ValueError("workloads is empty")
        if self.mode == "separate" and self.rank is None:
            raise ValueError("mode separate needs a rank")
        if self.mode == "swappable" and self.max_rank is None:
            raise ValueError("mode swappable needs max_rank")
        for key, graph in self.graphs.items():
            _once("input", [spec.name for spec in graph.inputs])
            _once("output", [spec.name for spec in graph.outputs])
            self._check_roles(key, graph)
            self._check_plan(graph.plan)
        _once("file", [file.file for file in self.files])
        names = {spec.name for graph in self.graphs.values() for spec in graph.inputs}
        for key, workload in self.workloads.items():
            unknown = sorted(set(workload.shapes) - names)
            if unknown:
                raise ValueError(f"workload {key}: {unknown[0]} isn't an input of a graph")
            if (workload.context is None) == self.is_split:
                there = "out" if workload.context is None else ""
                raise ValueError(f"workload {key}: with{there} a context, unlike graphs")
        return self

    def _check_roles(self, key: str, graph: Graph) -> None:
        """Check the inputs that the runtime feeds, adapters apart."""
        fed = {spec.name for spec in self.graphs["context"].outputs} if key == "denoise" else set()
        strengths = [spec for spec in graph.inputs if spec.role == "strengths"]
        if any((spec.dtype, spec.shape) != ("fp32", (self.max_rank,)) for spec in strengths):
            raise ValueError(f"input {strengths[0].name} isn't fp32 of [max_rank]")
        if len(strengths) > 1:
            raise ValueError(f"input {strengths[1].name} is a second of role strengths")
        if self.mode == "swappable" and not strengths and key in ONE_GRAPH:
            raise ValueError("mode swappable needs an input of role strengths")
        for spec in graph.inputs:
            if spec.role == "context" and spec.name not in fed:
                raise ValueError(f"input {spec.name} isn't an output of a context graph")
            if spec.role == "card" and self.cards == 1:
                raise ValueError(f"input {spec.name} is a card's, of an engine for one card")

    def _check_plan(self, plan: PlanFile | None) -> None:
        if (plan is None) != (self.backend == "onnxruntime"):
            raise ValueError(f"backend {self.backend} with{'out' if plan is None else ''} a plan")
        if plan is not None:
            sizes = {file.file: file.bytes for file in self.weights}
            plan.check(self.mode, sizes, self.workloads)

    @property
    def forward(self) -> Graph:
        """The graph of one forward; of a split engine, the one that every forward runs."""
        return self.graphs["denoise" if self.is_split else "forward"]

    @property
    def is_split(self) -> bool:
        """Whether what depends on the prompt and the image alone is a graph of its own."""
        return "context" in self.graphs

    @property
    def rebuild_command(self) -> str:
        """The command that makes the engine again in place, from the folder that it ran in."""
        if not self.command:
            return "(engine.json names no command: a program made it)"
        forced = () if "--force" in self.command else ("--force",)
        return shlex.join(["wanexport", *self.command, *forced])

    @property
    def source_scheme(self) -> str | None:
        """How the checkpoints that it was made from are quantised; None if they aren't."""
        schemes = dict.fromkeys(source.scheme for source in self.sources if source.scheme)
        return "+".join(schemes) or None

    @property
    def weight_bytes(self) -> int:
        """What loading the engine's graphs takes from its weight files."""
        return sum(graph.weight_bytes for graph in self.graphs.values())

    @property
    def data_inputs(self) -> tuple[TensorSpec, ...]:
        """What a caller feeds: to the graph of every forward first, then to a context graph."""
        graphs = (self.forward, *(g for g in self.graphs.values() if g is not self.forward))
        return tuple(spec for graph in graphs for spec in graph.inputs if spec.role == "data")

    @property
    def adapter_inputs(self) -> tuple[TensorSpec, ...]:
        """The matrices that a canonical adapter for this engine may hold; none: it can't swap."""
        return tuple(spec for graph in self.graphs.values() for spec in graph.adapter_inputs)

    @property
    def stacks(self) -> tuple[tuple[AdapterFile, ...], ...]:
        """The adapters that ship with the engine: those of each stack are loaded together."""
        numbers = dict.fromkeys(adapter.stack for adapter in self.adapters)
        return tuple(tuple(a for a in self.adapters if a.stack == number) for number in numbers)

    def keeps(self, stack: int, full: Manifest) -> float | None:
        """Return how much of a full fine-tune's effect the engine keeps with adapters of a stack.

        Args:
            stack: which; 0 for engines that don't swap.
            full: the fine-tune's own engine.

        Returns:
            The share; None where nobody measured it, or against another fine-tune than that.
        """
        found = self.verification.fidelity
        if found is None or set(found.finetuned) != full.checkpoint_files:
            return None
        return found.keeps[stack] if stack < len(found.keeps) else None

    @property
    def checkpoint_files(self) -> set[str]:
        """The SHA-256 of each file of the checkpoint that the engine was made from."""
        return {source.sha256 for source in self.sources if source.strength is None}

    @property
    def files(self) -> list[File]:
        """Every file of the folder but engine.json itself."""
        plans = [graph.plan for graph in self.graphs.values() if graph.plan is not None]
        merges = [merge for plan in plans if plan.swap for merge in plan.swap.merges]
        layers = [plan.layers for plan in plans if plan.layers is not None]
        emulated = [graph.emulated for graph in self.graphs.values() if graph.emulated is not None]
        graphs = [*self.graphs.values(), *emulated]
        return [*graphs, *self.weights, *self.adapters, *plans, *merges, *layers]

    def to_json(self) -> str:
        """Return engine.json's text."""
        return self.model_dump_json(indent=1) + "\n"


def _once(kind: str, names: list[str]) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{kind} {name} is there twice")
        seen.add(name)


def json_schema() -> str:
    """Return engine.schema.json's text."""
    return json.dumps(Manifest.model_json_schema(), indent=1) + "\n"
