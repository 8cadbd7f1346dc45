"""Every form, in the order in which they are applied."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from wanexport.graph.fusible.apart_biases import set_biases_apart
from wanexport.graph.fusible.flat_stream import flatten_stream
from wanexport.graph.fusible.joined_branches import join_branches
from wanexport.graph.fusible.late_biases import add_biases_late
from wanexport.graph.fusible.rounded_residual import round_residuals
from wanexport.graph.fusible.scaled_products import scale_products
from wanexport.graph.fusible.split_norms import split_norms
from wanexport.model.quantization import Format

__all__ = ["FORMS", "lower_for_tensorrt"]

FORMS = (
    "flat stream", "rounded residual", "split norms", "joined branches", "apart biases",
    "late biases",
)  # fmt: skip
"""What `benchmarks/compiled_block.py` switches; a later one counts on those before it."""


def lower_for_tensorrt(
    model: ir.Model,
    dtype: ir.DataType,
    joined: Collection[str] = (),
    quantized: Collection[str] = (),
    form: Format | None = None,
    forms: Collection[str] = FORMS,
) -> None:
    """Shape a graph of bf16 or fp16 so that TensorRT's builder fuses what it can.

    `benchmarks/results/compiled_block.md` has what each form is worth, read from TensorRT-RTX's
    plans.

    Args:
        model: the graph.
        dtype: what the engine computes in; a twin's graph is fp32 and gets the same operators.
        joined: layers whose low-rank branch becomes part of their own product.
        quantized: layers whose product is in 8 bits.
        form: which.
        forms: those to apply.
    """
    if "flat stream" in forms:
        flatten_stream(model)
    if "rounded residual" in forms:
        round_residuals(model)
    if "split norms" in forms:
        split_norms(model, dtype)
    if "joined branches" in forms:
        join_branches(model, joined)
    if form is not None:
        scale_products(model, dtype, quantized, form)
    if "apart biases" in forms:
        set_biases_apart(model, dtype)
    if "late biases" in forms:
        add_biases_late(model)
