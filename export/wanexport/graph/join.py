"""Graphs that run one after another, joined in one; and what tells whether two graphs are equal."""

from __future__ import annotations

import hashlib

import onnx_ir as ir

__all__ = ["fingerprint", "join_graphs"]


def join_graphs(first: ir.Model, second: ir.Model) -> ir.Model:
    """Return one graph in which the second reads the first's outputs by their names.

    Inputs that both have are one; so are initializers of one name. Both models stay as they are.
    """
    ahead, graph = first.graph.clone(), second.graph.clone()
    given = {value.name: value for value in ahead.outputs}
    given |= {value.name: value for value in ahead.inputs}
    inputs = list(ahead.inputs)
    for value in list(graph.inputs):
        if value.name in given:
            ir.convenience.replace_all_uses_with(value, given[value.name])
        else:
            inputs.append(value)
    initializers = dict(ahead.initializers)
    for name, value in graph.initializers.items():
        if name in initializers:
            ir.convenience.replace_all_uses_with(value, initializers[name])
        else:
            initializers[name] = value
    nodes, outputs = [*ahead, *graph], list(graph.outputs)
    for old in (ahead, graph):
        old.inputs.clear()
        old.outputs.clear()
        old.initializers.clear()
        old.remove(list(old))
    joined = ir.Graph(
        inputs,
        outputs,
        nodes=nodes,
        initializers=list(initializers.values()),
        opset_imports={**ahead.opset_imports, **graph.opset_imports},
        name="joined",
    )
    return ir.Model(joined, ir_version=second.ir_version)


def fingerprint(model: ir.Model) -> str:
    """Hash what a graph computes its outputs from: operators, attributes, inputs, weights by name.

    Names of nodes and of values between them don't count, nor does their order. Everything else
    does; `wanexport.verify.twin` compares graphs of two sizes, of which shapes and casts don't.
    """
    known: dict[ir.Value, str] = {}
    for value in model.graph.inputs:
        known[value] = _hash("input", value.name, value.dtype, value.shape)
    for value in model.graph.initializers.values():
        known[value] = _hash(value.name, value.dtype, value.shape, _describe(value.const_value))
    for node in model.graph:
        attributes = sorted((name, str(attr.value)) for name, attr in node.attributes.items())
        read = [None if value is None else known[value] for value in node.inputs]
        for index, value in enumerate(node.outputs):
            known[value] = _hash(node.domain, node.op_type, attributes, read, index)
    return _hash([(value.name, known[value]) for value in model.graph.outputs])


def _describe(tensor: ir.TensorProtocol | None) -> object:
    """Return where a weight's bytes lie, or the bytes of a constant that the graph holds."""
    if isinstance(tensor, ir.ExternalTensor):
        return tensor.location, tensor.offset, tensor.length
    return None if tensor is None else tensor.tobytes()


def _hash(*parts: object) -> str:
    return hashlib.sha256(repr([str(part) for part in parts]).encode()).hexdigest()
