"""Keep a swappable engine's down projections apart from the layers beside them."""

from __future__ import annotations

import onnx_ir as ir

from wanexport.graph.fusible.split_norms import hide
from wanexport.graph.rewrite import nodes_of

__all__ = ["set_branches_apart"]

DOWN = ".lora_A"


def set_branches_apart(model: ir.Model, dtype: ir.DataType) -> None:
    """Have x A^T read an x of its own wherever A is computed, as with strengths it is.

    Layers that read one x become one GEMM over all their weights. With a computed A among them, the
    builder puts those weights together in every forward: 0.21 GB for the keys and values of the
    text in a block of I2V-14B, and as much for the image's.

    Args:
        model: the graph, with its strengths.
        dtype: what the engine computes in; a twin's graph is fp32 and gets the same operators.
    """
    hidden: dict[ir.Value, ir.Value] = {}
    for node in nodes_of(model, "Gemm"):
        x, a = node.inputs[:2]
        assert x is not None
        assert a is not None
        joined = any(user.node.op_type == "Concat" for user in x.uses())
        if joined or not (node.name or "").endswith(DOWN) or a.is_initializer():
            continue
        if x not in hidden:
            hidden[x] = _hide(model, x, dtype)
        node.replace_input_with(0, hidden[x])


def _hide(model: ir.Model, x: ir.Value, dtype: ir.DataType) -> ir.Value:
    node = hide(model, x, dtype)
    node.name = node.outputs[0].name = f"{x.name}.hidden"
    before = x.producer()
    if before is None:
        model.graph.insert_before(model.graph[0], node)
    else:
        model.graph.insert_after(before, node)
    return node.outputs[0]
