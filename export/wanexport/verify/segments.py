"""Run a twin on an engine's own bytes: stem, blocks and head one after the other.

So neither side ever holds more than a block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from wanexport.graph.emulate import emulate
from wanexport.graph.trace import OUTPUT_NAME
from wanexport.storage.dtypes import onnx_dtype, torch_dtype
from wanexport.storage.tensor_file import (
    StoredTensor,
    TensorRef,
    open_safetensors,
    write_safetensors,
)

__all__ = ["count_bytes", "run_segments"]


def run_segments(
    folder: Path,
    twin: ir.Model,
    layers: int,
    bound: Mapping[str, TensorRef],
    values: dict[str, Tensor],
    on_bytes: Callable[[int], None],
    *,
    emulated: bool = False,
) -> Tensor:
    """Run stem, blocks and head one after the other and return the sample in fp32.

    A bf16 graph is `emulated`; its inputs, and what passes between its pieces, are fp32 tensors.
    """
    run = partial(_run_segment, folder, twin, bound, values, on_bytes, emulated)
    x = "stem"
    values.update(run([x, "time", *_block_inputs(twin)]))
    for layer in range(layers):
        values.update(run([f"blocks.{layer}"]))
        del values[x]
        x = f"blocks.{layer}"
    return run([OUTPUT_NAME])[OUTPUT_NAME].float()


def count_bytes(twin: ir.Model, bound: Mapping[str, TensorRef]) -> int:
    """Return the bytes of all weights that `run_segments` will have run."""
    return sum(bound[name].nbytes for name in _open_values(twin.graph))


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
    emulated: bool,
    outputs: list[str],
) -> dict[str, Tensor]:
    import onnxruntime as ort

    graph = ir.convenience.extract(twin.graph, list(values), outputs)
    model = ir.Model(graph, ir_version=twin.ir_version)
    model.opset_imports.update(twin.opset_imports)
    if emulated:
        model = emulate(model, fp32_edges=True)
    needed = [value.name or "" for value in model.graph.inputs]
    weights = _open_values(model.graph)
    path = folder / ".verify.onnx"
    cast = folder / ".verify.safetensors"
    try:
        _bind_segment(model.graph, folder, cast, bound)
        ir.save(model, path)
        options = ort.SessionOptions()
        if emulated:  # the pairs of casts are the rounding, and would be folded
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
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
