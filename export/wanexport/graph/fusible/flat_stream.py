"""Keep one video's tokens as a matrix [tokens, width] between its linear layers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from wanexport.graph.rewrite import constant, dims, drop_unused, make, replace

__all__ = ["flatten_stream"]

ROWWISE = (
    "Add", "Cast", "Gelu", "LayerNormalization", "Max", "Min", "Mul", "RMSNormalization", "Sub",
)  # fmt: skip
"""Operators that see the last axis alone, or broadcast along it."""


def flatten_stream(model: ir.Model) -> None:
    """Let every operator between two Gemms see [tokens, width] instead of [1, tokens, width].

    A Reshape between a Gemm and what follows keeps the builder from fusing the two. Attention and
    rotary embedding keep their three dimensions, with a Reshape before and behind. It holds where
    batch is 1: with more, one video's gate can't be broadcast as a row over all tokens.
    """
    video = dims(model.graph.inputs[0])
    if video is None or video[0] != 1:
        return
    flat: dict[ir.Value, ir.Value] = {}
    for node in list(model.graph):
        if node.op_type == "Reshape":
            _reshape(node, flat)
        elif node.op_type == "Cast" and node.inputs[0] not in flat:
            continue  # of what has three dimensions and keeps them; a twin has no casts
        elif node.op_type in ROWWISE and not node.domain and _is_single(node.outputs[0]):
            _flatten(model, node, flat)
    drop_unused(model)


def _reshape(node: ir.Node, flat: dict[ir.Value, ir.Value]) -> None:
    """Take note of a matrix that gets a leading 1, and drop a Reshape that takes it away."""
    source, output = node.inputs[0], node.outputs[0]
    assert source is not None
    if _is_single(output) and dims(source) == dims(output)[1:]:  # type: ignore[index]
        flat[output] = source
        if source.producer() is not None:
            _swap_names(source, output)
    elif source in flat and dims(output) == dims(flat[source]):
        ir.convenience.replace_all_uses_with(output, flat[source])


def _flatten(model: ir.Model, node: ir.Node, flat: dict[ir.Value, ir.Value]) -> None:
    output = node.outputs[0]
    shape = dims(output)
    assert shape is not None
    added: list[ir.Node] = []
    inputs = [_matrix(model, value, flat, added) for value in node.inputs]
    matrix = make(node.op_type, inputs, output, shape[1:], node.attributes)
    back = make("Reshape", [matrix.outputs[0], _shape(model, shape)], output)
    flat[back.outputs[0]] = matrix.outputs[0]
    replace(model, node, [*added, matrix, back])
    _swap_names(matrix.outputs[0], back.outputs[0])


def _matrix(
    model: ir.Model,
    value: ir.Value | None,
    flat: dict[ir.Value, ir.Value],
    added: list[ir.Node],
) -> ir.Value | None:
    """Return an operand without its leading 1; vectors and scalars broadcast as they are."""
    shape = dims(value)
    if value is None or shape is None or len(shape) != 3:
        return value
    if value not in flat:
        reshape = make("Reshape", [value, _shape(model, shape[1:])], value, shape[1:])
        added.append(reshape)
        flat[value] = reshape.outputs[0]
    return flat[value]


def _is_single(value: ir.Value) -> bool:
    shape = dims(value)
    return shape is not None and len(shape) == 3 and shape[0] == 1


def _shape(model: ir.Model, shape: tuple[int, ...]) -> ir.Value:
    name = "shape." + "x".join(map(str, shape))
    return constant(model, name, np.array(shape, np.int64), ir.DataType.INT64)


def _swap_names(one: ir.Value, other: ir.Value) -> None:
    """Give the value that is kept the name by which the graph is cut: `stem`, `blocks.N`."""
    first, second = one.name, other.name
    one.name = f"{first}.swapped"
    other.name = first
    one.name = second
