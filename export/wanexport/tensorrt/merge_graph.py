"""The graph of a merge plan, which puts an adapter into one matrix of an engine's weights."""

from __future__ import annotations

import onnx_ir as ir

from wanexport.graph.trace import IR_VERSION, OPSET
from wanexport.storage.dtypes import onnx_dtype

__all__ = ["merge_model"]


def merge_model(shape: tuple[int, int], max_rank: int, dtype: str) -> ir.Model:
    """Return the graph that merges one matrix: weight + lora_B lora_A in fp32, rounded once.

    Args:
        shape: [out, in] of the weight.
        max_rank: rows of lora_A [max_rank, in] and columns of lora_B [out, max_rank], in fp32.
        dtype: the weight's safetensors dtype.
    """
    out, width = shape
    kind = onnx_dtype(dtype)
    weight = _value("weight", kind, (out, width))
    down = _value("lora_A", ir.DataType.FLOAT, (max_rank, width))
    up = _value("lora_B", ir.DataType.FLOAT, (out, max_rank))
    cast = ir.node("Cast", [weight], {"to": int(ir.DataType.FLOAT)})
    delta = ir.node("MatMul", [up, down])
    total = ir.node("Add", [cast.outputs[0], delta.outputs[0]])
    merged = ir.node("Cast", [total.outputs[0]], {"to": int(kind)})
    merged.outputs[0].name = "merged"
    merged.outputs[0].shape, merged.outputs[0].type = ir.Shape(shape), ir.TensorType(kind)
    graph = ir.Graph(
        [weight, down, up],
        [merged.outputs[0]],
        nodes=[cast, delta, total, merged],
        opset_imports={"": OPSET},
        name="merge",
    )
    return ir.Model(graph, ir_version=IR_VERSION, producer_name="wanexport")


def _value(name: str, kind: ir.DataType, shape: tuple[int, ...]) -> ir.Value:
    return ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(kind))
