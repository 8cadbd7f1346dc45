"""Forms of a bf16 graph that ONNX Runtime's CUDA provider runs with fewer passes over memory.

The provider has a kernel per operator and fuses none of what the traced graph says in several: a
modulated LayerNorm, for one, is five kernels that move 36 bytes per element where one moves 4.
Modulation, gates and the rotary table are rounded to bf16 for it, which diffusers keeps in fp32;
the emulated graph's error, beside torch's own, says what that costs.
`benchmarks/results/gpu.md` has what each form is worth. All of them hold for the fp32 twin too,
whose graph must stay equal but for casts.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from onnx_ir.passes import common

from wanexport.graph.rewrite import (
    cast,
    constant,
    count,
    make,
    nodes_of,
    only_user,
    other_input,
    replace,
    scalar,
)

__all__ = ["fold_modulation", "lower_for_cuda", "narrow", "scale_in_attention"]

NARROWED = ("Add", "LayerNormalization", "Mul", "RMSNormalization", "RotaryEmbedding")
"""Operators whose CUDA kernels read and write bf16; norms compute in fp32 inside."""


def lower_for_cuda(model: ir.Model) -> None:
    """Apply every form, and drop nodes that nothing reads any more."""
    fold_modulation(model)
    scale_in_attention(model)
    narrow(model)
    common.CommonSubexpressionEliminationPass()(model)
    common.RemoveUnusedNodesPass()(model)


def fold_modulation(model: ir.Model) -> None:
    """Give a LayerNorm the modulation as its scale and bias: LN(x) * s + b is LN(x; s, b).

    It holds where there is one row of s and b, that is one video per forward.
    """
    for norm in nodes_of(model, "LayerNormalization"):
        multiply = only_user(norm.outputs[0], "Mul")
        add = only_user(multiply.outputs[0], "Add") if multiply is not None else None
        if multiply is None or add is None:
            continue
        scale = other_input(multiply, norm.outputs[0])
        bias = other_input(add, multiply.outputs[0])
        width = norm.outputs[0].shape[-1] if norm.outputs[0].shape is not None else None
        if not isinstance(width, int) or count(scale) != width or count(bias) != width:
            continue
        shape = constant(model, "modulation.shape", np.array([width], np.int64), ir.DataType.INT64)
        rows = [make("Reshape", [value, shape], value, (width,)) for value in (scale, bias)]
        attributes = {name: norm.attributes[name] for name in ("axis", "epsilon")}
        inputs = [norm.inputs[0], *(row.outputs[0] for row in rows)]
        folded = make("LayerNormalization", inputs, add.outputs[0], attributes=attributes)
        replace(model, add, [*rows, folded])


def scale_in_attention(model: ir.Model) -> None:
    """Scale scores in the attention's kernel, in fp32, instead of by the query norm's weight.

    The weight is then the checkpoint's own, exact in bf16. (TensorRT's importer needs it the other
    way round: `wanexport.graph.dit`.)
    """
    for attention in nodes_of(model, "Attention"):
        norm = attention.inputs[0].producer() if attention.inputs[0] is not None else None
        while norm is not None and norm.op_type in ("Cast", "RotaryEmbedding"):
            norm = norm.inputs[0].producer() if norm.inputs[0] is not None else None
        if norm is None or norm.op_type != "RMSNormalization" or norm.inputs[1] is None:
            continue
        scaled = norm.inputs[1].producer()
        if scaled is not None and scaled.op_type == "Mul":
            norm.meta["factor"] = scalar(scaled.inputs[1])
            norm.replace_input_with(1, scaled.inputs[0])
        factor = attention.attributes["scale"].as_float() * norm.meta.get("factor", 1.0)
        attention.attributes["scale"] = ir.AttrFloat32("scale", factor)


def narrow(model: ir.Model) -> None:
    """Compute in bf16 what is computed in fp32 from bf16 and rounded to bf16 at once.

    Values per channel stay fp32 until the kernel reads them.
    """
    for rounding in nodes_of(model, "Cast"):
        wide = rounding.inputs[0]
        if rounding.outputs[0].dtype != ir.DataType.BFLOAT16 or wide is None:
            continue
        producer = wide.producer()
        if producer is None or producer.op_type not in NARROWED:
            continue
        added: list[ir.Node] = []
        _narrowed(wide, rounding, added)
        replace(model, rounding, added)


def _narrowed(wide: ir.Value, rounding: ir.Node, added: list[ir.Node]) -> ir.Value:
    """Return a bf16 value for an fp32 one; nodes that compute it are appended to `added`."""
    producer = wide.producer()
    if producer is not None and producer.op_type == "Cast":
        source = producer.inputs[0]
        if source is not None and source.dtype == ir.DataType.BFLOAT16:
            return source
    per_token = count(wide) is None or count(wide) == count(rounding.outputs[0])
    if producer is not None and producer.op_type in NARROWED and per_token:
        inputs = [_narrowed(v, rounding, added) if v is not None else None for v in producer.inputs]
        node = make(
            producer.op_type,
            inputs,
            wide,
            attributes=producer.attributes,
            dtype=ir.DataType.BFLOAT16,
        )
    else:
        node = cast(wide, ir.DataType.BFLOAT16)
    added.append(node)
    return node.outputs[0]
