"""Small steps of which graph passes are made: find a pattern, make nodes like others, replace."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

__all__ = [
    "cast",
    "constant",
    "count",
    "dims",
    "drop_unused",
    "make",
    "nodes_of",
    "only_user",
    "other_input",
    "producer",
    "replace",
    "scalar",
    "take_over",
]


def nodes_of(model: ir.Model, op_type: str) -> list[ir.Node]:
    """Return the graph's nodes of a standard operator, in order."""
    return [node for node in model.graph if node.op_type == op_type and not node.domain]


def producer(value: ir.Value | None, op_type: str) -> ir.Node | None:
    """Return the node that makes a value, if it is of that standard operator."""
    node = value.producer() if value is not None else None
    return node if node is not None and node.op_type == op_type and not node.domain else None


def only_user(value: ir.Value, op_type: str) -> ir.Node | None:
    """Return the one node that reads a value, if it is the only one and of that operator."""
    users = list(value.uses())
    node = users[0].node if len(users) == 1 else None
    return node if node is not None and node.op_type == op_type else None


def other_input(node: ir.Node, value: ir.Value) -> ir.Value:
    """Return the other of a node's two inputs."""
    (other,) = (v for v in node.inputs if v is not None and v is not value)
    return other


def dims(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return a value's shape; None if a dimension is open."""
    if value is None or value.shape is None:
        return None
    shape = tuple(value.shape)
    return shape if all(isinstance(dim, int) for dim in shape) else None  # type: ignore[return-value]


def count(value: ir.Value | None) -> int | None:
    """Return how many elements a value has; None if a dimension is open."""
    shape = dims(value)
    return None if shape is None else math.prod(shape)


def scalar(value: ir.Value | None) -> float:
    """Return a constant's only element."""
    assert value is not None
    assert value.const_value is not None
    return float(value.const_value.numpy())


def constant(model: ir.Model, name: str, array: np.ndarray, dtype: ir.DataType) -> ir.Value:
    """Return the graph's constant of that name, made where it isn't there yet."""
    known = model.graph.initializers.get(name)
    if known is not None:
        return known
    tensor = ir.tensor(array, dtype=dtype, name=name)
    value = ir.Value(
        name=name, const_value=tensor, shape=ir.Shape(array.shape), type=ir.TensorType(dtype)
    )
    model.graph.initializers[name] = value
    return value


def make(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    like: ir.Value,
    shape: Sequence[int | ir.SymbolicDim] | ir.Shape | None = None,
    attributes: Mapping[str, ir.Attr] | None = None,
    dtype: ir.DataType | None = None,
) -> ir.Node:
    """Return a node whose output has a value's shape and dtype, unless others are given."""
    node = ir.Node("", op_type, inputs, list((attributes or {}).values()))
    output = node.outputs[0]
    output.shape = like.shape if shape is None else ir.Shape(shape)
    output.type = like.type if dtype is None else ir.TensorType(dtype)
    return node


def cast(value: ir.Value, dtype: ir.DataType) -> ir.Node:
    """Return a Cast of a value."""
    return make("Cast", [value], value, attributes={"to": ir.AttrInt64("to", dtype)}, dtype=dtype)


def replace(model: ir.Model, node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Put nodes in a node's place; the last one's output takes its output's name and users."""
    _name(node, nodes)
    old, new = node.outputs[0], nodes[-1].outputs[0]
    name = old.name
    model.graph.insert_before(node, nodes)
    take_over(model, old, new)
    model.graph.remove(node, safe=True)
    new.name = name


def take_over(model: ir.Model, old: ir.Value, new: ir.Value) -> None:
    """Let everything that reads a value, and the graph's outputs, read another."""
    ir.convenience.replace_all_uses_with(old, new)
    for index, output in enumerate(model.graph.outputs):
        if output is old:
            model.graph.outputs[index] = new


def drop_unused(model: ir.Model) -> None:
    """Remove nodes and constants that nothing reads any more; parameters stay."""
    from onnx_ir.passes import common

    common.RemoveUnusedNodesPass()(model)


def _name(node: ir.Node, nodes: Sequence[ir.Node]) -> None:
    """Name new nodes and values after the node that they replace: its scope is theirs."""
    for number, added in enumerate(nodes):
        added.name = f"{node.name}.{number}"
        added.outputs[0].name = f"{added.name}.value"
