"""Add a layer's bias behind its branch, where both are products of their own."""

from __future__ import annotations

import onnx_ir as ir

from wanexport.graph.rewrite import drop_unused, make, nodes_of, producer, replace

__all__ = ["add_biases_late"]


def add_biases_late(model: ir.Model) -> None:
    """Turn (x W^T + b) + t B^T into (x W^T + t B^T) + b.

    The builder merges base products that read one x, without their biases, and gives each bias a
    kernel of its own, which reads and writes the layer's output. Behind the branch it is part of
    what follows.
    """
    for node in nodes_of(model, "Gemm"):
        base = producer(node.inputs[2] if len(node.inputs) == 3 else None, "Gemm")
        if base is None or len(base.inputs) != 3 or len(base.outputs[0].uses()) != 1:
            continue
        bias = base.inputs[2]
        base.resize_inputs(2)
        up = make("Gemm", node.inputs, node.outputs[0], attributes=node.attributes)
        name = node.name
        replace(model, node, [up, make("Add", [up.outputs[0], bias], node.outputs[0])])
        up.name = name
    drop_unused(model)
