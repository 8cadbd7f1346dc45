"""Make a graph's adapter its inputs: A and B of every module, and one vector of strengths."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from wanexport.graph.fusible.apart_branches import set_branches_apart
from wanexport.graph.rewrite import cast, constant, make
from wanexport.storage.dtypes import onnx_dtype
from wanrt.manifest.schema import Backend

__all__ = ["STRENGTHS", "make_swappable"]

STRENGTHS = "strengths"
DOWN = ".lora_A"


def make_swappable(
    model: ir.Model, names: Sequence[str], max_rank: int, backend: Backend, dtype: str
) -> None:
    """Make A and B inputs of a lowered graph, A's rows multiplied by `strengths` [max_rank], fp32.

    The strengths multiply A, not x A^T: they are read with rank x width values instead of
    rank x tokens, and strength 0 is the base even where x A^T would overflow. The product is
    computed in fp32 and rounded once to A's dtype.

    Args:
        model: the graph, lowered for what runs it.
        names: of A and B of every module; the inputs come in this order, `strengths` after them.
        max_rank: rows of every A.
        backend: what runs the engine.
        dtype: the engine's.
    """
    graph = model.graph
    strengths = ir.Value(
        name=STRENGTHS, shape=ir.Shape([max_rank]), type=ir.TensorType(ir.DataType.FLOAT)
    )
    shape = constant(model, f"{STRENGTHS}.shape", np.array([max_rank, 1]), ir.DataType.INT64)
    column = make("Reshape", [strengths, shape], strengths, (max_rank, 1))
    column.name = column.outputs[0].name = f"{STRENGTHS}.column"
    nodes = [column]
    for name in names:
        value = graph.initializers.pop(name)
        graph.inputs.append(value)
        if name.endswith(DOWN):
            nodes += _scale(value, column.outputs[0])
    graph.inputs.append(strengths)
    graph.insert_before(graph[0], nodes)
    if backend != "onnxruntime" and dtype != "fp32":
        set_branches_apart(model, onnx_dtype(dtype))


def _scale(a: ir.Value, column: ir.Value) -> list[ir.Node]:
    """Return nodes that compute A times the strengths, and have them read in its place."""
    assert a.dtype is not None
    users = list(a.uses())
    wide = ir.DataType.FLOAT
    nodes = [cast(a, wide)] if a.dtype != wide else []
    nodes.append(make("Mul", [nodes[0].outputs[0] if nodes else a, column], a, dtype=wide))
    if a.dtype != wide:
        nodes.append(cast(nodes[-1].outputs[0], a.dtype))
    for number, node in enumerate(nodes):
        node.name = node.outputs[0].name = f"{a.name}.strength{number or ''}"
    for node, index in users:
        node.replace_input_with(index, nodes[-1].outputs[0])
    return nodes
