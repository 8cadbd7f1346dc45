"""The emulated form of a bf16 graph, for a CPU, whose kernels have no bf16.

Every operator computes in fp32 and what it writes is rounded to bf16. That is what a GPU computes,
but for the order of sums and for what a fused kernel rounds inside (attention's probabilities). So
the engine's own graph can be run, judged and compared without one.
"""

from __future__ import annotations

import onnx_ir as ir

from wanexport.errors import BuildError
from wanexport.graph.passes import HINT

__all__ = ["emulate"]

MOVES = (
    "Cast", "Concat", "Expand", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze",
    "Transpose", "Unsqueeze",
)  # fmt: skip
"""Operators that compute nothing; ONNX Runtime's CPU provider has them in bf16."""

BF16, FP32 = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def emulate(model: ir.Model, *, fp32_edges: bool = False) -> ir.Model:
    """Return a copy whose operators compute in fp32 and round what they write to bf16.

    Inputs, outputs and initializers keep their names, dtypes and places in the weight files. ONNX
    Runtime must not optimise the graph: it would fold the pairs of casts, which are the rounding.

    Args:
        model: a graph; its bf16 initializers may be without values.
        fp32_edges: take inputs in fp32, and round them; give outputs in fp32, already rounded. For
            callers that have no bf16.

    Raises:
        BuildError: a value's dtype isn't known, so it might go unrounded.
    """
    copy = model.clone()
    widened: dict[ir.Value, ir.Value] = {}
    for node in list(copy.graph):
        for output in node.outputs:
            if output.dtype is None:
                raise BuildError(f"{output.name} has no dtype", "this is a bug; report it")
        for name in [name for name in node.attributes if name.startswith(HINT)]:
            del node.attributes[name]  # ONNX Runtime refuses TensorRT's
        if node.op_type in MOVES and not node.domain:
            continue
        _widen_inputs(copy.graph, node, widened)
        for output in node.outputs:
            if output.dtype == BF16:
                _round(copy.graph, node, output)
    if fp32_edges:
        _widen_edges(copy.graph)
    return copy


def _widen_inputs(graph: ir.Graph, node: ir.Node, widened: dict[ir.Value, ir.Value]) -> None:
    """Have a node read fp32; what several nodes read is cast once, before the first of them."""
    for index, value in enumerate(node.inputs):
        if value is None or value.dtype != BF16:
            continue
        if value not in widened:
            cast = _cast(value, FP32, f"{value.name}.fp32")
            graph.insert_before(node, cast)
            widened[value] = cast.outputs[0]
        node.replace_input_with(index, widened[value])


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


def _widen_edges(graph: ir.Graph) -> None:
    for value in graph.inputs:
        if value.dtype == BF16:
            users = list(value.uses())
            cast = _cast(value, BF16, f"{value.name}.bf16")
            value.type = ir.TensorType(FP32)
            graph.insert_before(graph[0], cast)
            for user in users:
                user.node.replace_input_with(user.idx, cast.outputs[0])
    for index, value in enumerate(graph.outputs):
        if value.dtype == BF16:
            name = value.name
            value.name = f"{name}.bf16"
            cast = _cast(value, FP32, name)
            graph.append(cast)
            graph.outputs[index] = cast.outputs[0]


def _cast(value: ir.Value, to: ir.DataType, name: str | None) -> ir.Node:
    cast = ir.node("Cast", [value], {"to": to})
    cast.name = f"{value.name}.to_{to.name.lower()}"
    cast.outputs[0].name = name
    cast.outputs[0].shape = value.shape
    cast.outputs[0].type = ir.TensorType(to)
    return cast
