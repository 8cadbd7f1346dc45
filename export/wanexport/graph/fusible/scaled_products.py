"""Multiply in 8 bits: inputs scaled by rows as they come, weights by scales of their own."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from wanexport.errors import BuildError
from wanexport.graph.fusible.split_norms import hide
from wanexport.graph.rewrite import cast, constant, dims, drop_unused, make, nodes_of, take_over
from wanexport.model.quantization import Format, scale_name

__all__ = ["scale_products"]

SUFFIX = ".weight"
FP32 = ir.DataType.FLOAT
TYPES = {"fp8": ir.DataType.FLOAT8E4M3FN, "int8": ir.DataType.INT8}
SMALLEST = 1e-30
"""What the largest value of a row of zeros counts as."""


def scale_products(
    model: ir.Model, dtype: ir.DataType, modules: Collection[str], form: Format
) -> None:
    """Turn the Gemms of linear layers into products of 8 bits, in place.

        m = max |x| of a row, in fp32
        x8 = quantise(x * limit / m) with the constant step; limit = largest * step
        acc = dequantise(x8) dequantise(W8)^T, both with the constant step
        y = acc * (m / (limit * step)) * s_w + bias, in fp32 and rounded once

    W8 keeps the weight's name and shape [out, in]; s_w is `NAME_scale` [out], fp32. The step is a
    power of two, which every dtype holds exactly, and so small that |acc| <= in: fp16 can't
    overflow. TensorRT's builder makes a GEMM of 8 bits of it because both scales are constant
    scalars in the engine's dtype. With a computed scale it computes in bf16 and says nothing; with
    scales per row in fp32 inside the product the GEMM writes fp32.

    Args:
        model: the graph, with its norms written out.
        dtype: what the engine computes in; a twin's graph is fp32 and gets the same operators.
        modules: the layers.
        form: of what 8 bits.

    Raises:
        BuildError: a module has no Gemm of its own.
    """
    left = set(modules)
    rows: dict[ir.Value, _Rows] = {}
    for node in nodes_of(model, "Gemm"):
        weight = node.inputs[1]
        module = (weight.name or "").removesuffix(SUFFIX) if weight is not None else ""
        if module in left:
            left.remove(module)
            _scale_product(model, node, rows, dtype, form)
    if left:
        raise BuildError(f"no product of {min(left)} was quantised", "this is a bug; report it")
    drop_unused(model)


@dataclass(frozen=True)
class _Rows:
    """A quantised input: [rows, in] in the graph's dtype, and [rows, 1] that undoes its scaling."""

    value: ir.Value
    factor: ir.Value


@dataclass
class _Writer:
    """Makes nodes one after the other, named after a block."""

    name: str
    nodes: list[ir.Node] = field(default_factory=list)

    def add(self, node: ir.Node) -> ir.Value:
        """Append a node, name it unless it has a name, and return its output."""
        self.nodes.append(node)
        output = node.outputs[0]
        node.name = node.name or f"{self.name}.{len(self.nodes)}"
        output.name = output.name or f"{node.name}.value"
        return output

    def widen(self, value: ir.Value) -> ir.Value:
        """Return a value in fp32."""
        return value if value.dtype == FP32 else self.add(cast(value, FP32))

    def narrow(self, value: ir.Value, dtype: ir.DataType | None) -> ir.Value:
        """Return an fp32 value in the graph's dtype."""
        assert dtype is not None
        return value if dtype == FP32 else self.add(cast(value, dtype))


def _scale_product(
    model: ir.Model,
    gemm: ir.Node,
    rows: dict[ir.Value, _Rows],
    dtype: ir.DataType,
    form: Format,
) -> None:
    x, weight, bias = (*gemm.inputs, None)[:3]
    y, shape = gemm.outputs[0], dims(weight)
    assert x is not None and weight is not None and weight.name is not None and shape is not None
    if x not in rows:
        writer = _Writer(_scope(gemm, f"rows{len(rows)}"))
        rows[x] = _quantize(model, writer, x, form)
        model.graph.insert_before(gemm, writer.nodes)
    low = ir.Value(name=weight.name, shape=ir.Shape(shape), type=ir.TensorType(TYPES[form.scheme]))
    scale = ir.Value(
        name=scale_name(weight.name), shape=ir.Shape(shape[:1]), type=ir.TensorType(FP32)
    )
    del model.graph.initializers[weight.name]
    model.graph.initializers.update({weight.name: low, scale_name(weight.name): scale})

    writer = _Writer(_scope(gemm, f"scaled{len(model.graph)}"))
    step = _step(model, x, form)
    wide = writer.add(make("DequantizeLinear", [low, step], x, shape))
    transposed = {"transB": ir.AttrInt64("transB", 1)}
    product = make("Gemm", [rows[x].value, wide], y, attributes=transposed)
    product.name = gemm.name
    product.outputs[0].name = f"{gemm.name}.product"  # `NODE.value` is what the result is called
    acc = writer.add(product)

    def unscale(value: ir.Value) -> ir.Value:
        raw = writer.widen(value)
        scaled = writer.add(make("Mul", [raw, rows[x].factor], raw))
        scaled = writer.add(make("Mul", [scaled, scale], scaled))
        if bias is not None:
            scaled = writer.add(make("Add", [scaled, writer.widen(bias)], scaled))
        return writer.narrow(scaled, y.dtype)

    result = unscale(acc)
    copies = [use.node for use in y.uses() if use.node.op_type == "Min"]
    if copies:  # of a norm, which then reads acc twice and writes nothing between
        hidden = unscale(writer.add(hide(model, acc, dtype)))
        for copy in copies:
            ir.convenience.replace_all_uses_with(copy.outputs[0], hidden)
    model.graph.insert_before(gemm, writer.nodes)
    take_over(model, y, result)
    name = y.name
    model.graph.remove([*copies, gemm], safe=True)
    result.name = name


def _quantize(model: ir.Model, writer: _Writer, x: ir.Value, form: Format) -> _Rows:
    """Return x with the largest value of each row at the end of the format's range."""
    shape = dims(x)
    assert shape is not None
    axis = constant(model, "last_axis", np.array([-1], np.int64), ir.DataType.INT64)
    size = writer.add(make("Abs", [x], x))
    top = writer.widen(writer.add(make("ReduceMax", [size, axis], x, (shape[0], 1))))
    top = writer.add(make("Max", [top, _number(model, SMALLEST)], top))
    inverse = writer.add(make("Div", [_number(model, form.limit), top], top))
    factor = writer.add(make("Mul", [top, _number(model, 1 / (form.limit * form.step))], top))
    wide = writer.widen(x)
    scaled = writer.narrow(writer.add(make("Mul", [wide, inverse], wide)), x.dtype)
    step, stored = _step(model, x, form), TYPES[form.scheme]
    kind = {"output_dtype": ir.AttrInt64("output_dtype", stored)}
    low = writer.add(make("QuantizeLinear", [scaled, step], x, attributes=kind, dtype=stored))
    return _Rows(writer.add(make("DequantizeLinear", [low, step], x)), factor)


def _scope(gemm: ir.Node, name: str) -> str:
    """Return a name in the layer's block that isn't one of the model's layers."""
    return ".".join([*(gemm.name or "").split(".")[:2], name])


def _number(model: ir.Model, number: float) -> ir.Value:
    return constant(model, f"number.{number:.9g}", np.array(number, np.float32), FP32)


def _step(model: ir.Model, like: ir.Value, form: Format) -> ir.Value:
    assert like.dtype is not None
    array = np.array(form.step, np.float32).astype(like.dtype.numpy())
    return constant(model, f"step.{form.scheme}", array, like.dtype)
