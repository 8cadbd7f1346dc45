"""The twin of an engine's graph: the same code traced at a size that a CPU can run.

At most 1,024 tokens. Where the engine's dtype doesn't run on a CPU there are two: one in fp32,
whose graph must equal the engine's but for shape constants and casts, and one in the engine's
dtype, to be emulated, which must have its casts too.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from wanexport.errors import BuildError
from wanexport.graph import passes
from wanexport.graph.trace import GraphSpec, model_inputs
from wanexport.model.config import Architecture, Size
from wanexport.storage.hashes import sha256_text
from wanexport.weights.store import CONSTANTS_NAME

__all__ = ["WIDE", "same_structure", "small_spec", "twin_inputs", "twin_size", "twin_spec"]

MAX_TOKENS = 1024
MAX_TOKENS_WIDE = 256  # 40 blocks of width 5120 take minutes on a CPU even so
WIDE = 2048


def twin_size(arch: Architecture, size: Size, cards: int = 1) -> Size:
    """Return a size of the same proportions and at most 1,024 tokens, fewer for wide models.

    Its tokens are a multiple of the cards that share them.
    """
    most = MAX_TOKENS if arch.width <= WIDE else MAX_TOKENS_WIDE
    frames = min(size.frames, 5)
    small = size.model_copy(update={"frames": frames, "batch": min(size.batch, 2)})
    while small.tokens > most:
        shrink = math.sqrt(most / small.tokens) * 0.99
        width = max(16, int(small.width * shrink) // 16 * 16)
        height = max(16, int(small.height * shrink) // 16 * 16)
        small = small.model_copy(update={"width": width, "height": height})
    if small.tokens % cards:
        step = 16 * cards // math.gcd(cards, small.tokens // (small.width // 16))
        width = max(step, small.width // step * step)
        small = small.model_copy(update={"width": width})
    return small


def twin_spec(spec: GraphSpec) -> GraphSpec:
    """Return what the twin is traced from: fp32 for bf16, which no CPU backend computes."""
    small = small_spec(spec)
    return replace(small, dtype="fp32", storage={}) if spec.dtype == "bf16" else small


def small_spec(spec: GraphSpec) -> GraphSpec:
    """Return what the twin in the engine's own dtype is traced from."""
    return replace(spec, size=twin_size(spec.arch, spec.size, spec.cards))


def twin_inputs(spec: GraphSpec) -> dict[str, Tensor]:
    """Return seeded inputs in fp32: unit normal, the timestep in the middle of the schedule.

    Those of an fp16 engine are rounded to it, for the reference too.
    """
    arch, size = spec.arch, small_spec(spec).size
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn(shape, generator=generator)
        for name, (shape, _) in model_inputs(arch, size, "fp32").items()
    }
    if spec.dtype == "fp16":
        inputs = {name: value.half().float() for name, value in inputs.items()}
    inputs["timestep"] = torch.linspace(986.5, 512.25, size.batch)
    return inputs


def same_structure(engine: ir.Model, twin: ir.Model, *, casts: bool = False) -> None:
    """Check that two graphs are equal but for shape constants and, unless they count, `casts`.

    Raises:
        BuildError: they differ, so that the twin would prove nothing about the engine.
    """
    if _fingerprint(engine.graph, casts=casts) != _fingerprint(twin.graph, casts=casts):
        raise BuildError("the verification twin has another graph than the engine", "report this")


def _fingerprint(graph: ir.Graph, *, casts: bool) -> list[str]:
    """Return a hash per output of all that it is computed from: operators, attributes, edges.

    Inputs and parameters count by name, other constants by value; integer constants are shapes and
    all count as one. Broadcasts to a constant shape are looked through, casts unless they count.
    """
    known = {value.name or "": value.name or "" for value in graph.inputs}
    for name, value in graph.initializers.items():
        constant = _constant(value)
        known[name] = name
        if constant is not None:
            shape = value.dtype == ir.DataType.INT64
            known[name] = "shape" if shape else _hash_values(constant)
    for node in graph:
        inputs = [known[v.name or ""] if v is not None else "" for v in node.inputs]
        broadcast = node.op_type == "Expand" and inputs[1] == "shape"
        transparent = broadcast or (node.op_type == "Cast" and not casts)
        attributes = sorted(
            (name, _show(a.value))
            for name, a in node.attributes.items()
            if not name.startswith(passes.HINT)
        )
        for index, output in enumerate(node.outputs):
            described = (node.domain, node.op_type, attributes, inputs, index)
            known[output.name or ""] = inputs[0] if transparent else sha256_text(repr(described))
    return [known[value.name or ""] for value in graph.outputs]


def _show(value: object) -> str:
    """Return an attribute as text; a file holds floats in fp32, a traced graph in fp64."""
    return repr(float(np.float32(value)) if isinstance(value, float) else value)


def _hash_values(constant: ir.TensorProtocol) -> str:
    """Return a hash of a constant's values, whatever dtype they are stored in."""
    return hashlib.sha256(constant.numpy().astype(np.float64).tobytes()).hexdigest()


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    """Return what no checkpoint holds, bound to the engine's file of constants or not yet."""
    tensor = value.const_value
    if isinstance(tensor, ir.ExternalTensor):
        return tensor if Path(tensor.location).name == CONSTANTS_NAME else None
    return tensor
