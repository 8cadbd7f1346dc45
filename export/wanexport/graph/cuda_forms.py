"""Forms of a bf16 graph that ONNX Runtime's CUDA provider runs with fewer passes over memory.

The provider has a kernel per operator and fuses none of what the traced graph says in several: a
modulated LayerNorm, for one, is five kernels that move 36 bytes per element where one moves 4.
Modulation, gates and the rotary table are rounded to bf16 for it, which diffusers keeps in fp32; the
emulated graph's error, beside torch's own, says what that costs.
`benchmarks/results/gpu.md` has what each form is worth. All of them hold for the fp32 twin too,
whose graph must stay equal but for casts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

__all__ = ["fold_modulation", "lower_for_cuda", "narrow", "scale_in_attention"]

NARROWED = ("Add", "LayerNormalization", "Mul", "RMSNormalization", "RotaryEmbedding")
"""Operators whose CUDA kernels read and write bf16; norms compute in fp32 inside."""


def lower_for_cuda(model: ir.Model) -> None:
    """Apply every form, and drop what nothing reads any more."""
    fold_modulation(model)
    scale_in_attention(model)
    narrow(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)


def fold_modulation(model: ir.Model) -> None:
    """Give a LayerNorm the modulation as its scale and bias: LN(x) * s + b is LN(x; s, b).

    It holds where there is one row of s and b, that is one video per forward.
    """
    for norm in _nodes(model, "LayerNormalization"):
        multiply = _only_user(norm.outputs[0], "Mul")
        add = _only_user(multiply.outputs[0], "Add") if multiply is not None else None
        if multiply is None or add is None:
            continue
        scale = _other(multiply, norm.outputs[0])
        bias = _other(add, multiply.outputs[0])
        width = norm.outputs[0].shape[-1] if norm.outputs[0].shape is not None else None
        if not isinstance(width, int) or _count(scale) != width or _count(bias) != width:
            continue
        shape = _constant(model, "modulation.shape", np.array([width], np.int64))
        flat = ir.Shape([width])
        rows = [_like("Reshape", [value, shape], value, flat) for value in (scale, bias)]
        attributes = {name: norm.attributes[name] for name in ("axis", "epsilon")}
        inputs = [norm.inputs[0], *(row.outputs[0] for row in rows)]
        folded = _like("LayerNormalization", inputs, add.outputs[0], attributes=attributes)
        _replace(model, add, [*rows, folded])


def scale_in_attention(model: ir.Model) -> None:
    """Scale scores in the attention's kernel, in fp32, instead of by the query norm's weight.

    The weight is then the checkpoint's own, exact in bf16. (TensorRT's importer needs it the other
    way round: `wanexport.graph.dit`.)
    """
    for attention in _nodes(model, "Attention"):
        norm = attention.inputs[0].producer() if attention.inputs[0] is not None else None
        while norm is not None and norm.op_type in ("Cast", "RotaryEmbedding"):
            norm = norm.inputs[0].producer() if norm.inputs[0] is not None else None
        if norm is None or norm.op_type != "RMSNormalization" or norm.inputs[1] is None:
            continue
        scaled = norm.inputs[1].producer()
        if scaled is not None and scaled.op_type == "Mul":
            norm.meta["factor"] = _scalar(scaled.inputs[1])
            norm.replace_input_with(1, scaled.inputs[0])
        factor = attention.attributes["scale"].as_float() * norm.meta.get("factor", 1.0)
        attention.attributes["scale"] = ir.AttrFloat32("scale", factor)


def narrow(model: ir.Model) -> None:
    """Compute in bf16 what is computed in fp32 from bf16 and rounded to bf16 at once.

    Values per channel stay fp32 until the kernel reads them.
    """
    for cast in _nodes(model, "Cast"):
        wide = cast.inputs[0]
        if cast.outputs[0].dtype != ir.DataType.BFLOAT16 or wide is None:
            continue
        producer = wide.producer()
        if producer is None or producer.op_type not in NARROWED:
            continue
        added: list[ir.Node] = []
        _narrowed(wide, cast, added)
        _replace(model, cast, added)


def _narrowed(wide: ir.Value, cast: ir.Node, added: list[ir.Node]) -> ir.Value:
    """Return a bf16 value for an fp32 one; nodes that compute it are appended to `added`."""
    producer = wide.producer()
    if producer is not None and producer.op_type == "Cast":
        source = producer.inputs[0]
        if source is not None and source.dtype == ir.DataType.BFLOAT16:
            return source
    per_token = _count(wide) is None or _count(wide) == _count(cast.outputs[0])
    if producer is not None and producer.op_type in NARROWED and per_token:
        inputs = [_narrowed(v, cast, added) if v is not None else None for v in producer.inputs]
        node = _like(producer.op_type, inputs, wide, attributes=dict(producer.attributes))
    else:
        node = _like("Cast", [wide], wide, attributes={"to": _to_bf16()})
    node.outputs[0].type = ir.TensorType(ir.DataType.BFLOAT16)
    added.append(node)
    return node.outputs[0]


def _nodes(model: ir.Model, op_type: str) -> list[ir.Node]:
    return [node for node in model.graph if node.op_type == op_type and not node.domain]


def _only_user(value: ir.Value, op_type: str) -> ir.Node | None:
    users = list(value.uses())
    node = users[0].node if len(users) == 1 else None
    return node if node is not None and node.op_type == op_type else None


def _other(node: ir.Node, value: ir.Value) -> ir.Value:
    (other,) = (v for v in node.inputs if v is not None and v is not value)
    return other


def _count(value: ir.Value) -> int | None:
    """Return how many elements a value has; None if a dimension is open."""
    dims = tuple(value.shape) if value.shape is not None else (None,)
    return math.prod(dims) if all(isinstance(dim, int) for dim in dims) else None  # type: ignore[arg-type]


def _scalar(value: ir.Value | None) -> float:
    assert value is not None
    assert value.const_value is not None
    return float(value.const_value.numpy())


def _constant(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    known = model.graph.initializers.get(name)
    if known is not None:
        return known
    tensor = ir.tensor(array, name=name)
    value = ir.Value(
        name=name,
        const_value=tensor,
        shape=ir.Shape(array.shape),
        type=ir.TensorType(tensor.dtype),
    )
    model.graph.initializers[name] = value
    return value


def _like(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    value: ir.Value,
    shape: ir.Shape | None = None,
    attributes: dict[str, ir.Attr] | None = None,
) -> ir.Node:
    """Return a node whose output has a value's dtype and, unless one is given, its shape."""
    node = ir.Node("", op_type, inputs, list((attributes or {}).values()))
    node.outputs[0].shape = shape or value.shape
    node.outputs[0].type = value.type
    return node


def _replace(model: ir.Model, node: ir.Node, nodes: list[ir.Node]) -> None:
    """Put nodes in a node's place; the last one's output takes its output's name and users."""
    old, new = node.outputs[0], nodes[-1].outputs[0]
    name = old.name
    for number, added in enumerate(nodes):
        added.name = f"{node.name}.{number}"
        added.outputs[0].name = f"{name}.{number}"
    model.graph.insert_before(node, nodes)
    ir.convenience.replace_all_uses_with(old, new)
    for index, output in enumerate(model.graph.outputs):
        if output is old:
            model.graph.outputs[index] = new
    model.graph.remove(node, safe=True)
    new.name = name


def _to_bf16() -> ir.Attr:
    return ir.AttrInt64("to", ir.DataType.BFLOAT16)
