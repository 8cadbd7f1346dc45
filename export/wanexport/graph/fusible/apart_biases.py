"""Add the biases of self-attention's q, k and v behind the GEMM that the builder makes of three."""

from __future__ import annotations

import onnx_ir as ir

from wanexport.graph.fusible.split_norms import hide
from wanexport.graph.rewrite import drop_unused, make, nodes_of, producer

__all__ = ["set_biases_apart"]


def set_biases_apart(model: ir.Model, dtype: ir.DataType) -> None:
    """Let norms and attention add a bias to the raw product wherever they read it.

    The builder merges the three GEMMs and leaves their biases to the kernels of the norms'
    statistics, which then write a biased copy for the second factor. With a raw product that is
    read twice nothing is written. A v that is read once isn't merged with q and k, so it is
    max(raw + b, min(raw) + b), the same value twice. It holds for norms that are written out.

    Args:
        model: the graph.
        dtype: what the engine computes in.
    """
    for attention in nodes_of(model, "Attention"):
        products = [_product(value) for value in attention.inputs[:3]]
        found = [node for node in products if node is not None]
        if len(found) == 3 and len({node.inputs[0] for node in found}) == 1:
            for node in found:
                _set_apart(model, node, dtype)
    drop_unused(model)


def _product(value: ir.Value | None) -> ir.Node | None:
    """Return the Gemm that a query, key or value comes from."""
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Gemm":
            return node
        value = node.inputs[0]
    return None


def _set_apart(model: ir.Model, gemm: ir.Node, dtype: ir.DataType) -> None:
    bias, raw = _take_bias(gemm), gemm.outputs[0]
    if bias is None:
        return
    users = list(raw.uses())
    hidden = next((user.node for user in users if user.node.op_type == "Min"), None)
    nodes: list[ir.Node] = []

    def add(op_type: str, *inputs: ir.Value) -> ir.Value:
        nodes.append(make(op_type, inputs, raw))
        return nodes[-1].outputs[0]

    plain = add("Add", raw, bias)
    if hidden is None:  # v, which no norm reads
        nodes.append(hide(model, raw, dtype))
        plain = add("Max", plain, add("Add", nodes[-1].outputs[0], bias))
    for user in users:
        if user.node is not hidden:
            user.node.replace_input_with(user.idx, plain)
    _insert(model, gemm, nodes)
    if hidden is not None:
        biased = make("Add", [hidden.outputs[0], bias], raw)
        for use in list(hidden.outputs[0].uses()):
            if use.node is not biased:
                use.node.replace_input_with(use.idx, biased.outputs[0])
        _insert(model, hidden, [biased])


def _take_bias(gemm: ir.Node) -> ir.Value | None:
    """Return a linear layer's bias, taken out of it or of the Gemm that its branch adds to."""
    while len(gemm.inputs) == 3 and (inner := producer(gemm.inputs[2], "Gemm")) is not None:
        gemm = inner
    if len(gemm.inputs) != 3:
        return None
    bias = gemm.inputs[2]
    gemm.resize_inputs(2)
    return bias


def _insert(model: ir.Model, after: ir.Node, nodes: list[ir.Node]) -> None:
    for number, node in enumerate(nodes):
        node.name = f"{after.name}.bias.{number}"
        node.outputs[0].name = f"{node.name}.value"
    model.graph.insert_after(after, nodes)
