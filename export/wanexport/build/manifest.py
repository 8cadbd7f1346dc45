"""Describe a built engine: everything that engine.json says."""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path

import onnx_ir as ir

from wanexport.build.reuse import TOOLS
from wanexport.build.targets import Target
from wanexport.graph.cards import CARD_INPUT
from wanexport.graph.swappable import STRENGTHS
from wanexport.graph.trace import model_inputs
from wanexport.model.config import Size
from wanexport.model.formulas import GraphName, count_activations, count_bytes, count_flops
from wanexport.storage.dtypes import engine_dtype, itemsize
from wanexport.storage.hashes import sha256_file
from wanexport.weights.store import WeightStore
from wanrt.manifest.fields import ADAPTER_ROLES, File, TensorSpec
from wanrt.manifest.origin import Prefused, Quantization, Source, Verification
from wanrt.manifest.plan import PlanFile
from wanrt.manifest.schema import AdapterFile, ContextCost, Graph, Manifest, Workload

__all__ = ["EMULATED_FILES", "GRAPH_FILES", "make_manifest"]

GRAPH_FILES = {"forward": "model.onnx", "context": "context.onnx", "denoise": "denoise.onnx"}
EMULATED_FILES = {
    "forward": "emulated.onnx",
    "context": "context.emulated.onnx",
    "denoise": "denoise.emulated.onnx",
}

RANGES = {"timestep": (0.0, 1000.0)}  # of the flow-matching schedules; all else is unit normal


def make_manifest(
    target: Target,
    store: WeightStore,
    graphs: Mapping[str, ir.Model],
    adapters: tuple[AdapterFile, ...],
    verification: Verification,
    plans: Mapping[str, PlanFile],
) -> Manifest:
    """Return the manifest of a finished engine folder; of TensorRT, with the plan of each graph."""
    config, weights = target.config, target.weights
    prefused = tuple(one.recorded for one in weights.prefuse)
    random = weights.made.random_weights or any(a.random_weights for a in target.adapters)
    return Manifest(
        schema_version=1,
        name=target.name,
        model=config.name,
        expert=target.expert,
        mode=target.mode,
        rank=target.rank,
        max_rank=target.max_rank,
        targets=tuple(target.ranks) or _merged_targets(target),
        target_set=target.target_set,
        prefuse=prefused,
        quantization=_quantization(target),
        lora_form=("fused" if target.joined else "branch") if target.ranks else None,
        dtype=config.dtype,
        backend=target.backend,
        cards=target.cards,
        random_weights=random,
        full_finetune=weights.origin == "finetuned",
        graphs={name: _graph(store.folder, name, g, plans.get(name)) for name, g in graphs.items()},
        workloads={size.name: _workload(target, size) for size in target.sizes},
        weights=tuple(store.files.values()),
        adapters=adapters,
        sources=(
            *(
                Source(path=path, sha256=digest, scheme=weights.made.scheme(Path(path)))
                for path, digest in weights.files
            ),
            *(
                Source(path=path, sha256=sha, strength=strength, scale_from=file.scale_from)
                for adapter in target.adapters
                for (path, sha, strength), file in zip(
                    adapter.sources, adapter.adapters, strict=True
                )
            ),
        ),
        config=config.model_dump(mode="json"),
        command=target.command,
        compared_by=_compared_by(target, prefused),
        inputs=dict(target.inputs),
        tools=_tools(),
        verification=verification,
    )


def _compared_by(target: Target, prefused: Sequence[Prefused]) -> dict[str, str]:
    """Return what two engines must have alike to be compared."""
    return {
        "model": target.config.name,
        "expert": target.expert or "none",
        "prefuse": ", ".join(_show(one) for one in prefused) or "none",
        "quantization": target.form.scheme if target.form else "none",
        "layout": "split" if target.split else "one",
        "cards": str(target.cards),
    }


def _quantization(target: Target) -> Quantization | None:
    if target.form is None:
        return None
    return Quantization(
        scheme=target.form.scheme,
        weights="channel",
        activations=target.form.activations,
        excluded=target.excluded,
        origin="pristine",
    )


def _show(prefused: Prefused) -> str:
    strength = "" if prefused.strength == 1 else f" x{prefused.strength:g}"
    return f"{prefused.name}{strength} ({prefused.sha256[:8]})"


def _merged_targets(target: Target) -> tuple[str, ...]:
    return tuple(sorted({module for adapter in target.adapters for module in adapter.targets}))


def _graph(folder: Path, name: str, model: ir.Model, plan_file: PlanFile | None) -> Graph:
    emulated = folder / EMULATED_FILES[name]
    return Graph(
        **dict(_file(folder / GRAPH_FILES[name])),
        weight_bytes=sum(
            value.const_value.nbytes
            for value in model.graph.initializers.values()
            if isinstance(value.const_value, ir.ExternalTensor)
        ),
        inputs=tuple(_spec(value) for value in model.graph.inputs),
        outputs=tuple(_spec(value) for value in model.graph.outputs),
        plan=plan_file,
        emulated=_file(emulated) if emulated.is_file() else None,
    )


def _file(path: Path) -> File:
    return File(file=path.name, bytes=path.stat().st_size, sha256=sha256_file(path))


def _spec(value: ir.Value) -> TensorSpec:
    assert value.name is not None and value.shape is not None and value.dtype is not None
    dims = tuple(dim if isinstance(dim, int) else str(dim.value) for dim in value.shape)
    module, _, part = value.name.rpartition(".")
    adapter = part in ADAPTER_ROLES
    role = part if adapter else "context" if module else "data"
    if value.name == STRENGTHS:
        role = STRENGTHS
    if value.name == CARD_INPUT:
        role = "card"
    return TensorSpec(
        name=value.name,
        dtype=engine_dtype(value.dtype),
        shape=dims,
        role=role,  # type: ignore[arg-type]
        module=module if adapter else None,
        range=RANGES.get(value.name),
    )


def _workload(target: Target, size: Size) -> Workload:
    arch, dtype = target.config.architecture, target.config.dtype
    lora = _branches(target)
    inputs = model_inputs(arch, size, dtype)
    swappable = target.mode == "swappable"

    def count(graph: GraphName) -> tuple[dict[str, int], dict[str, int]]:
        sizes = (size.batch, lora, graph)
        moved = count_bytes(arch.dims, size.tokens, itemsize(dtype), *sizes, swappable)
        return count_flops(arch.dims, size.tokens, *sizes), moved

    flops, moved = count("step" if target.split else "forward")
    context = ContextCost(**dict(zip(("flops", "bytes"), count("context"), strict=True)))
    return Workload(
        width=size.width,
        height=size.height,
        frames=size.frames,
        batch=size.batch,
        tokens=size.tokens,
        shapes={name: shape for name, (shape, _) in inputs.items()},
        flops=flops,
        bytes=moved,
        activation_bytes=count_activations(
            arch.dims.width, arch.dims.ffn, size.tokens, itemsize(dtype), size.batch
        ),
        context=context if target.split else None,
    )


def _branches(target: Target) -> dict[str, tuple[int, int, int]]:
    """Return module -> (rank, in, out) of what runs beside the base's linear layers."""
    branches = {}
    for module, rank in target.ranks.items():
        fan_out, *fan_in = target.shapes[f"{module}.weight"]
        branches[module] = (rank, math.prod(fan_in), fan_out)
    return branches


def _tools() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for package in ("wanexport", *TOOLS, "onnxruntime"):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions
