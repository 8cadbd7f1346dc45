"""What ONNX Runtime's operators multiply and move, worked out from their shapes."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import Final

from wanrt.errors import EngineError
from wanrt.explain.kernel import Kernel, Operand

__all__ = ["complete", "count_operator"]

INTEGER: Final = "DynamicQuantizeMatMul"
GEMMS: Final = ("Gemm", "FusedGemm", "MatMul", INTEGER)
ATTENTIONS: Final = ("MultiHeadAttention", "Attention")
MULTIPLIES: Final = ("gemm", "matmul", "conv", "attention", "einsum")
VIEWS: Final = ("Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity")


def complete(kernel: Kernel) -> Kernel:
    """Return an operator with what a profile leaves out of a Gemm: a weight that was repacked.

    Raises:
        EngineError: it multiplies, and what isn't known.
    """
    if kernel.kind in VIEWS:
        return replace(kernel, is_view=True)
    if kernel.kind in GEMMS:
        _, depth, columns, weight = _matrices(kernel)
        if weight is None:
            x = kernel.inputs[0]
            dtype = "int8" if kernel.kind == INTEGER else x.dtype
            packed = Operand("", dtype, (columns, depth), (x.place[0], "packed"))
            return replace(kernel, inputs=(x, packed, *kernel.inputs[1:]))
    elif kernel.kind not in ATTENTIONS and any(n in kernel.kind.lower() for n in MULTIPLIES):
        raise _unknown(kernel)
    return kernel


def count_operator(kernel: Kernel) -> tuple[int, str | None]:
    """Return the flops of a Gemm or an attention and what it reads; 0 and None for others.

    Raises:
        EngineError: its operands don't fit together.
    """
    if kernel.kind in GEMMS:
        rows, depth, columns, _ = _matrices(kernel)
        dtype = "int8" if kernel.kind == INTEGER else kernel.inputs[0].dtype
        return 2 * rows * depth * columns, dtype
    if kernel.kind in ATTENTIONS:
        return _attend(kernel)
    return 0, None


def _matrices(kernel: Kernel) -> tuple[int, int, int, Operand | None]:
    """Return rows, depth, columns and the weight of [rows, depth] x [depth, columns].

    Its first input is x, its weight may be either way round, and a third input is added.
    """
    if not kernel.inputs or len(kernel.outputs) != 1:
        raise _unknown(kernel)
    (x, *others), y = kernel.inputs, kernel.outputs[0]
    if not x.shape or not y.shape or prod(x.shape[:-1]) != prod(y.shape[:-1]):
        raise _unknown(kernel)
    depth, columns = x.shape[-1], y.shape[-1]
    fits = others and others[0].shape in ((depth, columns), (columns, depth))
    if fits and len(others) == 1 and others[0].shape == y.shape and kernel.kind != "MatMul":
        raise _unknown(kernel)  # the weight, or what is added while the weight is repacked
    return prod(x.shape[:-1]), depth, columns, others[0] if fits else None


def _attend(kernel: Kernel) -> tuple[int, str | None]:
    """q [batch, rows, width], k [batch, keys, width], v [batch, keys, values]."""
    shapes = [one.shape for one in kernel.inputs[:3]]
    if len(shapes) < 3 or any(len(shape) != 3 for shape in shapes):
        raise _unknown(kernel)
    q, k, v = shapes
    if k[:2] != v[:2] or q[0] != k[0] or q[2] != k[2]:
        raise _unknown(kernel)
    return 2 * prod(q) * k[1] + 2 * prod(q[:2]) * prod(v[1:]), kernel.inputs[0].dtype


def _unknown(kernel: Kernel) -> EngineError:
    shapes = ", ".join(str(list(one.shape)) for one in kernel.inputs + kernel.outputs)
    return EngineError(
        f"what operator {kernel.name} ({kernel.kind}) multiplies isn't known: {shapes}",
        "nothing is guessed from it",
    )
