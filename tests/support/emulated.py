"""A bf16 graph for a machine that has no bf16: fp32 arithmetic, every result rounded to bf16.

That is what a GPU computes but for the order of sums inside a kernel, so the graph itself can be
run and judged on a CPU. Weights stay bf16, as they are in the engine's files.
"""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from wanrt.backends.onnxruntime.session import to_ortvalue

__all__ = ["emulate", "run_emulated"]

MOVES = (
    "Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that compute nothing; ONNX Runtime's CPU provider has them in bf16."""

BF16, FP32 = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def emulate(model: ir.Model) -> ir.Model:
    """Return a copy whose operators compute in fp32 and round what they write to bf16.

    Inputs, outputs and initializers keep their names and dtypes. ONNX Runtime must not optimise the
    graph: it would fold the pairs of casts, which are the rounding.
    """
    copy = model.clone()
    graph = copy.graph
    widened: dict[ir.Value, ir.Value] = {}
    for node in list(graph):
        if node.op_type in MOVES:
            continue
        for index, value in enumerate(node.inputs):
            if value is None or value.dtype != BF16:
                continue
            if value not in widened:
                cast = _cast(value, FP32, f"{value.name}.fp32")
                graph.insert_before(node, cast)
                widened[value] = cast.outputs[0]
            node.replace_input_with(index, widened[value])
        for output in node.outputs:
            if output.dtype == BF16:
                _round(graph, node, output)
    return copy


def _round(graph: ir.Graph, node: ir.Node, output: ir.Value) -> None:
    """Put a rounded value in the place of what a node writes."""
    name = output.name
    output.name = f"{name}.unrounded"
    users = list(output.uses())
    cast = _cast(output, BF16, name)
    output.type = ir.TensorType(FP32)
    graph.insert_after(node, cast)
    for user in users:
        user.node.replace_input_with(user.idx, cast.outputs[0])
    for index, value in enumerate(graph.outputs):
        if value is output:
            graph.outputs[index] = cast.outputs[0]


def _cast(value: ir.Value, to: ir.DataType, name: str | None) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": to})
    cast.name = cast.outputs[0].name = name
    cast.outputs[0].shape = value.shape
    cast.outputs[0].type = ir.TensorType(to)
    return cast


def run_emulated(folder: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Run a bf16 engine's own graph on the CPU and return its sample in fp64."""
    path = folder / "emulated.onnx"
    ir.save(emulate(ir.load(folder / "model.onnx")), path)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    path.unlink()
    binding = session.io_binding()
    for name, value in feeds.items():
        binding.bind_ortvalue_input(name, to_ortvalue(name, value))
    (sample,) = session.get_outputs()
    words = np.empty(sample.shape, np.uint16)  # numpy has no bf16
    held = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(words, BF16)
    binding.bind_ortvalue_output(sample.name, held)
    session.run_with_iobinding(binding)
    return np.asarray(words.view(ml_dtypes.bfloat16), np.float64)
