"""Add a gated branch to the stream in the stream's own dtype."""

from __future__ import annotations

import onnx_ir as ir

from wanexport.graph.rewrite import (
    cast,
    drop_unused,
    make,
    nodes_of,
    other_input,
    producer,
    replace,
)

__all__ = ["round_residuals"]


def round_residuals(model: ir.Model) -> None:
    """Compute stream + low(y * gate) instead of low(fp32(stream) + y * gate).

    Bias, gate and residual are then the epilogue of one GEMM. In fp32 the epilogue's other operand,
    the stream, must be fp32, and a kernel of its own writes it. Only casts move.
    """
    for node in nodes_of(model, "Cast"):
        total = producer(node.inputs[0], "Add")
        low = node.outputs[0].dtype
        if total is None or low is None or low == ir.DataType.FLOAT:
            continue
        stream = producer(total.inputs[0], "Cast")
        if stream is None or stream.inputs[0] is None or stream.inputs[0].dtype != low:
            continue
        gated = other_input(total, stream.outputs[0])
        if producer(gated, "Mul") is None:
            continue
        rounded = cast(gated, low)
        add = make("Add", [stream.inputs[0], rounded.outputs[0]], node.outputs[0])
        replace(model, node, [rounded, add])
    drop_unused(model)
