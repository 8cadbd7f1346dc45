"""engine.json: the contract between the exporter, the runtimes and everybody else.

`engines/README.md` is its specification and `engines/engine.schema.json` the JSON Schema generated
from these models; a test keeps the three together.
"""

from __future__ import annotations

import json
from typing import Literal

from pydantic import model_validator

from wanrt.manifest.fields import Count, Dtype, File, Part, Positive, Sha256, TensorSpec
from wanrt.manifest.plan import PlanFile

__all__ = ["SCHEMA_VERSION", "Manifest"]

SCHEMA_VERSION = 1

Mode = Literal["full", "merged", "separate", "swappable"]
Backend = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]


class Graph(File):
    """One ONNX graph of the engine; its weights lie in the files listed by the manifest.

    `weight_bytes` counts the ranges of those files that its initializers refer to: what a backend
    loads, and often less than the files.
    """

    weight_bytes: Count
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    plan: PlanFile | None = None


class Workload(Part):
    """A named set of input shapes, and what one forward of it takes.

    `tokens` counts one sample's latent patches; tokens per second is batch x tokens / seconds of
    one forward. `flops` counts multiply and add as two, for the whole batch, by part. `bytes` is
    the memory traffic that an ideally fused forward can't avoid, weights included, by the same
    parts and those that move bytes without counted flops.
    """

    width: Count
    height: Count
    frames: Count
    batch: Positive
    tokens: Positive
    shapes: dict[str, tuple[Count, ...]]
    flops: dict[str, Count]
    bytes: dict[str, Count]


class WeightFile(File):
    """A safetensors file that the graphs reference by byte range.

    Written once and linked afterwards, so a change of size or mtime means that the folder was
    copied, or that somebody wrote over the bytes the engine runs with.
    """

    mtime_ns: Count
    origin: Literal["base", "finetuned", "adapter", "merged", "constants"]
    storage: Literal["reflink", "hardlink", "pool", "copy", "own"]


class AdapterFile(File):
    """A canonical adapter that ships inside a swappable engine's folder."""

    rank: Positive


class Source(Part):
    """A file the engine was made from, by content."""

    path: str
    sha256: Sha256
    strength: float | None = None


class Verification(Part):
    """How far the engine's outputs are from diffusers' own model in fp32 (relative L2).

    `reference_error` is PyTorch's own error in the engine's dtype; `adapter_effect` is how far the
    adapter moves the output, which must exceed the error to mean anything. `plan_error` is that of
    the TensorRT plan itself on the GPU that built it.
    """

    method: Literal["blocks", "none"]
    dtype: Dtype | None = None
    tokens: Count | None = None
    error: float | None = None
    tolerance: float | None = None
    reference_error: float | None = None
    adapter_effect: float | None = None
    plan_error: float | None = None


class Manifest(Part):
    """What engine.json says. Everything a runtime needs, nothing it has to guess."""

    schema_version: Literal[1]
    name: str
    model: str
    mode: Mode
    rank: Positive | None
    max_rank: Positive | None = None
    targets: tuple[str, ...]
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
    inputs: dict[str, str]
    tools: dict[str, str]
    verification: Verification

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if "forward" not in self.graphs:
            raise ValueError("graphs has no 'forward'")
        if not self.workloads:
            raise ValueError("workloads is empty")
        if self.mode == "separate" and self.rank is None:
            raise ValueError("mode separate needs a rank")
        if self.mode == "swappable" and self.max_rank is None:
            raise ValueError("mode swappable needs max_rank")
        for graph in self.graphs.values():
            _once("input", [spec.name for spec in graph.inputs])
            _once("output", [spec.name for spec in graph.outputs])
            self._check_plan(graph.plan)
        _once("file", [file.file for file in self.files])
        names = {spec.name for graph in self.graphs.values() for spec in graph.inputs}
        for key, workload in self.workloads.items():
            unknown = sorted(set(workload.shapes) - names)
            if unknown:
                raise ValueError(f"workload {key}: {unknown[0]} is no input of a graph")
        return self

    def _check_plan(self, plan: PlanFile | None) -> None:
        if (plan is None) != (self.backend == "onnxruntime"):
            raise ValueError(f"backend {self.backend} with{'out' if plan is None else ''} a plan")
        if plan is not None:
            sizes = {file.file: file.bytes for file in self.weights}
            plan.check(self.mode, sizes, self.workloads)

    @property
    def forward(self) -> Graph:
        """The graph of one forward."""
        return self.graphs["forward"]

    @property
    def weight_bytes(self) -> int:
        """What loading the engine's graphs takes from its weight files."""
        return sum(graph.weight_bytes for graph in self.graphs.values())

    @property
    def adapter_inputs(self) -> tuple[TensorSpec, ...]:
        """The matrices that a canonical adapter for this engine may hold; none: it can't swap."""
        plan = self.forward.plan
        if plan is not None and plan.swap is not None:
            return plan.swap.inputs
        return tuple(spec for spec in self.forward.inputs if spec.role != "data")

    @property
    def files(self) -> list[File]:
        """Every file of the folder but engine.json itself."""
        plans = [graph.plan for graph in self.graphs.values() if graph.plan is not None]
        merges = [merge for plan in plans if plan.swap for merge in plan.swap.merges]
        layers = [plan.layers for plan in plans if plan.layers is not None]
        return [*self.graphs.values(), *self.weights, *self.adapters, *plans, *merges, *layers]

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
