"""Write RMS norms out, so that a norm's second kernel reads what the first wrote no copy of."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from wanexport.graph.rewrite import cast, constant, drop_unused, make, nodes_of, producer, replace

__all__ = ["hide", "split_norms"]

LARGEST = {ir.DataType.BFLOAT16: 3.3762e38, ir.DataType.FLOAT16: 65472.0}
"""min(x, .) is x for every x below: the last but one finite value of the dtype."""


def split_norms(model: ir.Model, dtype: ir.DataType) -> None:
    """Write every RMS norm as x * 1/sqrt(mean(x * x) + eps) * weight.

    The builder keeps an fp32 copy of x as soon as two consumers read one cast of it, and writes it
    to memory between the two kernels of a norm. So the second factor casts a value of its own,
    which the builder can't know to be x.

    Args:
        model: the graph.
        dtype: what the engine computes in. (A twin's graph is fp32, and gets the same operators.)
    """
    for node in nodes_of(model, "RMSNormalization"):
        widened = producer(node.inputs[0], "Cast")
        x = widened.inputs[0] if widened is not None else node.inputs[0]
        assert x is not None
        replace(model, node, _written_out(model, node, x, dtype))
    drop_unused(model)


def hide(model: ir.Model, x: ir.Value, dtype: ir.DataType) -> ir.Node:
    """Return a node whose output is x, which the builder can't see.

    A value beyond `LARGEST`, infinity above all, comes out as that; it still shows where x itself
    is read.
    """
    assert x.dtype is not None
    limit = np.array(LARGEST[dtype], np.float32).astype(dtype.numpy())
    largest = constant(model, "largest", limit.astype(x.dtype.numpy()), x.dtype)
    return make("Min", [x, largest], x)


def _written_out(model: ir.Model, node: ir.Node, x: ir.Value, dtype: ir.DataType) -> list[ir.Node]:
    wide, weight, output = node.inputs[0], node.inputs[1], node.outputs[0]
    assert output.shape is not None
    row = [*output.shape[:-1], 1]
    axis = constant(model, "last_axis", np.array([-1], np.int64), ir.DataType.INT64)
    epsilon = node.attributes["epsilon"].as_float()
    eps = constant(
        model, f"epsilon.{epsilon:.9g}", np.array(epsilon, np.float32), ir.DataType.FLOAT
    )
    square = make("Mul", [wide, wide], output)
    mean = make("ReduceMean", [square.outputs[0], axis], output, row)
    shifted = make("Add", [mean.outputs[0], eps], output, row)
    root = make("Sqrt", [shifted.outputs[0]], output, row)
    factor = make("Reciprocal", [root.outputs[0]], output, row)
    hidden = hide(model, x, dtype)
    nodes = [square, mean, shifted, root, factor, hidden]
    second = hidden.outputs[0]
    if x.dtype != ir.DataType.FLOAT:
        nodes.append(cast(second, ir.DataType.FLOAT))
        second = nodes[-1].outputs[0]
    scaled = make("Mul", [second, factor.outputs[0]], output)
    return [*nodes, scaled, make("Mul", [scaled.outputs[0], weight], output)]
