"""Show that an engine computes what it should, before it may exist.

The check runs on a twin: the same code traced at a size of at most 1,024 tokens (and in fp32 where
the engine's dtype can't run on a CPU), bound to the engine's own bytes. The twin's graph must equal
the engine's but for shape constants and casts. Stem, blocks and head run one after the other, so
that neither side ever holds more than a block.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from wanexport.errors import BuildError, VerificationError
from wanexport.graph import passes
from wanexport.graph.trace import OUTPUT_NAME, GraphSpec, model_inputs
from wanexport.model.config import Architecture, Size
from wanexport.storage.dtypes import onnx_dtype, torch_dtype
from wanexport.storage.hashes import sha256_text
from wanexport.storage.tensor_file import (
    StoredTensor,
    TensorRef,
    open_safetensors,
    write_safetensors,
)
from wanexport.weights.store import CONSTANTS_NAME
from wanrt.manifest.origin import Verification

__all__ = ["Expected", "count_bytes", "relative_l2", "twin_size", "verify_engine"]

MAX_TOKENS = 1024
MAX_TOKENS_WIDE = 256  # 40 blocks of width 5120 take minutes on a CPU even so
WIDE = 2048
FP32_TOLERANCE = 1e-5
DTYPE_FACTOR = 1.5


@dataclass(frozen=True)
class Expected:
    """The reference's outputs for one engine on the twin's inputs.

    Args:
        sample: in fp32.
        base: of the base without the adapter, in fp32; None if there is no adapter.
        rounded: in the engine's dtype, where that dtype is what is verified.
    """

    sample: Tensor
    base: Tensor | None = None
    rounded: Tensor | None = None


def twin_size(arch: Architecture, size: Size) -> Size:
    """Return a size of the same proportions and at most 1,024 tokens, fewer for wide models."""
    most = MAX_TOKENS if arch.width <= WIDE else MAX_TOKENS_WIDE
    frames = min(size.frames, 5)
    small = size.model_copy(update={"frames": frames, "batch": min(size.batch, 2)})
    while small.tokens > most:
        shrink = math.sqrt(most / small.tokens) * 0.99
        width = max(16, int(small.width * shrink) // 16 * 16)
        height = max(16, int(small.height * shrink) // 16 * 16)
        small = small.model_copy(update={"width": width, "height": height})
    return small


def twin_spec(spec: GraphSpec) -> GraphSpec:
    """Return what the twin is traced from: fp32 for bf16, which no CPU backend computes."""
    size = twin_size(spec.arch, spec.size)
    if spec.dtype == "bf16":
        return replace(spec, size=size, dtype="fp32", storage={})
    return replace(spec, size=size)


def twin_inputs(spec: GraphSpec) -> dict[str, Tensor]:
    """Return seeded inputs in fp32: unit normal, the timestep in the middle of the schedule.

    Those of an fp16 engine are rounded to it, for the reference too.
    """
    arch, size = spec.arch, twin_size(spec.arch, spec.size)
    generator = torch.Generator().manual_seed(0)
    inputs = {
        name: torch.randn(shape, generator=generator)
        for name, (shape, _) in model_inputs(arch, size, "fp32").items()
    }
    if spec.dtype == "fp16":
        inputs = {name: value.half().float() for name, value in inputs.items()}
    inputs["timestep"] = torch.linspace(986.5, 512.25, size.batch)
    return inputs


def verify_engine(
    folder: Path,
    engine: ir.Model,
    twin: ir.Model,
    spec: GraphSpec,
    bound: Mapping[str, TensorRef],
    adapter: Mapping[str, Tensor],
    expected: Expected,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Verification:
    """Run the twin on the engine's bytes and compare it with the expected.

    Args:
        folder: the engine folder; temporary files go there and are removed.
        engine: the engine's graph.
        twin: the graph traced from `twin_spec(spec)`, lowered like the engine's.
        spec: what the engine's graph was traced from.
        bound: where each initializer's bytes lie.
        adapter: values of a swappable engine's adapter inputs.
        expected: what should come out.
        on_bytes: called after the stem, every block and the head, with the bytes of its weights.

    Raises:
        VerificationError: the error exceeds what the dtype allows, or the output isn't finite.
    """
    same_structure(engine, twin)
    dtype = twin_spec(spec).dtype
    size = twin_size(spec.arch, spec.size)
    feeds = twin_inputs(spec)
    values = {
        name: tensor.to(torch_dtype("fp32" if name == "timestep" else dtype))
        for name, tensor in feeds.items()
    }
    values.update({name: tensor.to(torch_dtype(dtype)) for name, tensor in adapter.items()})
    sample = _run_segments(folder, twin, spec.arch.num_layers, bound, values, on_bytes)
    error = relative_l2(sample, expected.sample)
    reference = None if expected.rounded is None else relative_l2(expected.rounded, expected.sample)
    tolerance = FP32_TOLERANCE if reference is None else DTYPE_FACTOR * reference
    if not math.isfinite(error):
        raise VerificationError(
            "the engine's output isn't finite",
            "look for NaN or overflow in the weights: wanexport inspect; fp16 overflows where "
            "bf16 doesn't",
        )
    if error > tolerance:
        raise VerificationError(
            f"the engine's outputs are off by {error:.2g} (relative L2), more than {tolerance:.2g}",
            "these versions of torch, onnx and onnxruntime don't agree; see constraints.txt",
        )
    effect = None if expected.base is None else relative_l2(expected.sample, expected.base)
    return Verification(
        method="blocks",
        dtype=dtype,  # type: ignore[arg-type]
        tokens=size.tokens,
        error=error,
        tolerance=tolerance,
        reference_error=reference,
        adapter_effect=effect,
    )


def count_bytes(twin: ir.Model, bound: Mapping[str, TensorRef]) -> int:
    """Return the bytes of all weights that `verify_engine` will have run."""
    return sum(bound[name].nbytes for name in _open_values(twin.graph))


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """Return |actual - expected| / |expected| over all elements, in fp64."""
    difference = (actual.double() - expected.double()).norm()
    return float(difference / expected.double().norm())


def same_structure(engine: ir.Model, twin: ir.Model) -> None:
    """Check that two graphs are equal but for shape constants and casts.

    Raises:
        BuildError: they differ, so that the twin would prove nothing about the engine.
    """
    if _fingerprint(engine.graph) != _fingerprint(twin.graph):
        raise BuildError("the verification twin has another graph than the engine", "report this")


def _fingerprint(graph: ir.Graph) -> list[str]:
    """Return a hash per output of all that it is computed from: operators, attributes, edges.

    Inputs and parameters count by name, other constants by value; integer constants are shapes and
    all count as one. Casts and broadcasts to a constant shape are looked through.
    """
    known = {value.name or "": value.name or "" for value in graph.inputs}
    for name, value in graph.initializers.items():
        constant = _constant(value)
        known[name] = name
        if constant is not None:
            shape = value.dtype == ir.DataType.INT64
            known[name] = "shape" if shape else hashlib.sha256(constant.tobytes()).hexdigest()
    for node in graph:
        inputs = [known[v.name or ""] if v is not None else "" for v in node.inputs]
        transparent = node.op_type == "Cast" or (node.op_type == "Expand" and inputs[1] == "shape")
        attributes = sorted(
            (name, repr(a.value))
            for name, a in node.attributes.items()
            if not name.startswith(passes.HINT)
        )
        for index, output in enumerate(node.outputs):
            described = (node.domain, node.op_type, attributes, inputs, index)
            known[output.name or ""] = inputs[0] if transparent else sha256_text(repr(described))
    return [known[value.name or ""] for value in graph.outputs]


def _constant(value: ir.Value) -> ir.TensorProtocol | None:
    """Return what no checkpoint holds, bound to the engine's file of constants or not yet."""
    tensor = value.const_value
    if isinstance(tensor, ir.ExternalTensor):
        return tensor if Path(tensor.location).name == CONSTANTS_NAME else None
    return tensor


def _run_segments(
    folder: Path,
    twin: ir.Model,
    layers: int,
    bound: Mapping[str, TensorRef],
    values: dict[str, Tensor],
    on_bytes: Callable[[int], None],
) -> Tensor:
    """Run stem, blocks and head one after the other and return the sample in fp32."""
    run = partial(_run_segment, folder, twin, bound, values, on_bytes)
    x = "stem"
    values.update(run([x, "time", *_block_inputs(twin)]))
    for layer in range(layers):
        values.update(run([f"blocks.{layer}"]))
        del values[x]
        x = f"blocks.{layer}"
    return run([OUTPUT_NAME])[OUTPUT_NAME].float()


def _block_inputs(twin: ir.Model) -> list[str]:
    """Name the stem's values, besides the tokens, that blocks read."""
    stem = {v.name for node in twin.graph if _scope(node) == "stem" for v in node.outputs}
    names: dict[str, None] = {}
    for node in twin.graph:
        if _scope(node) == "blocks":
            for value in node.inputs:
                if value is not None and value.name in stem and value.name != "stem":
                    names[value.name or ""] = None
    return list(names)


def _scope(node: ir.Node) -> str:
    return (node.name or "").split(".")[0]


def _run_segment(
    folder: Path,
    twin: ir.Model,
    bound: Mapping[str, TensorRef],
    values: Mapping[str, Tensor],
    on_bytes: Callable[[int], None],
    outputs: list[str],
) -> dict[str, Tensor]:
    import onnxruntime as ort

    graph = ir.convenience.extract(twin.graph, list(values), outputs)
    needed = [value.name or "" for value in graph.inputs]
    weights = _open_values(graph)
    path = folder / ".verify.onnx"
    cast = folder / ".verify.safetensors"
    try:
        _bind_segment(graph, folder, cast, bound)
        model = ir.Model(graph, ir_version=twin.ir_version)
        model.opset_imports.update(twin.opset_imports)
        ir.save(model, path)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_prepacking", "1")
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        results = session.run(outputs, {name: values[name].numpy() for name in needed})
    finally:
        path.unlink(missing_ok=True)
        cast.unlink(missing_ok=True)
    on_bytes(sum(bound[name].nbytes for name in weights))
    return {
        name: torch.from_numpy(np.asarray(result))
        for name, result in zip(outputs, results, strict=True)
    }


def _open_values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Return the initializers that the graph itself has no values of: the weights."""
    return {n: v for n, v in graph.initializers.items() if v.const_value is None}


def _bind_segment(
    graph: ir.Graph, folder: Path, cast: Path, bound: Mapping[str, TensorRef]
) -> None:
    """Bind a segment to the engine's bytes, through a temporary file where the dtype differs."""
    open_values = _open_values(graph)
    stored = {onnx_dtype(ref.dtype): ref.dtype for ref in bound.values()} | {
        ir.DataType.FLOAT: "F32"
    }
    converted = {
        name: StoredTensor(name, stored[value.dtype or ir.DataType.FLOAT], bound[name].shape)
        for name, value in open_values.items()
        if onnx_dtype(bound[name].dtype) != value.dtype
    }
    refs = dict(bound)
    if converted:
        tensors = (bound[n].read().to(torch_dtype(spec.dtype)) for n, spec in converted.items())
        write_safetensors(cast, list(converted.values()), tensors)
        refs.update(open_safetensors(cast).tensors)
    for name, value in open_values.items():
        ref = refs[name]
        value.const_value = ir.ExternalTensor(
            ref.path.relative_to(folder).as_posix(),
            ref.offset,
            ref.nbytes,
            onnx_dtype(ref.dtype),
            shape=ir.Shape(ref.shape),
            name=name,
            base_dir=str(folder),
        )
