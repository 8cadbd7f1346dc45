"""Compute a linear layer and its low-rank branch as one GEMM."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from wanexport.errors import BuildError
from wanexport.graph.rewrite import constant, dims, drop_unused, make, nodes_of, producer, replace

__all__ = ["join_branches", "joined_modules"]

HALF, OTHER_HALF = ".lora_A", ".lora_B"


@dataclass(frozen=True)
class _Branch:
    """One adapted linear layer: x W^T + b + (x A^T) B^T.

    Args:
        node: the Gemm that adds the branch to the layer's output.
        module: the layer's name.
        x: [rows, in].
        weight: [out, in].
        bias: [out], if there is one.
        a: [r, in].
        b: [out, r].
    """

    node: ir.Node
    module: str
    x: ir.Value
    weight: ir.Value
    bias: ir.Value | None
    a: ir.Value
    b: ir.Value


def join_branches(model: ir.Model, modules: Collection[str]) -> None:
    """Turn x W^T + (x A^T) B^T into [x, x A^T] [W, B]^T, one Gemm with the layer's bias.

    The builder elides the first concatenation: both of its producers write into one buffer. It
    folds the second where B is a constant. What follows the layer stays in the GEMM's epilogue.
    Layers of a block that read one x share one Gemm over all their A, and one buffer
    [x, t1, t2, ...]; each has zeros beside its B.

    Args:
        model: the graph.
        modules: the layers to do so with.

    Raises:
        BuildError: the graph has no branch of that name.
    """
    groups: dict[tuple[ir.Value, str], list[_Branch]] = defaultdict(list)
    for branch in _branches(model):
        if branch.module in modules:
            block = ".".join(branch.module.split(".")[:2])  # all of them read the text
            groups[branch.x, block].append(branch)
    found = {branch.module for branches in groups.values() for branch in branches}
    for module in modules:
        if module not in found:
            raise BuildError(f"the graph has no branch at {module}", "this is a bug; report it")
    for branches in groups.values():
        _join(model, branches)
    drop_unused(model)


def joined_modules(model: ir.Model) -> tuple[str, ...]:
    """Return the layers of a lowered graph whose low-rank branch is part of their own product."""
    found = []
    for node in nodes_of(model, "Concat"):
        for value in node.inputs[1:]:  # the weight comes first, its branch's B among what follows
            half = producer(value, "Cast")
            stored = half.inputs[0] if half is not None else value
            name = (stored.name if stored is not None else None) or ""
            if name.endswith(OTHER_HALF):
                found.append(name.removesuffix(OTHER_HALF))
    return tuple(found)


def _branches(model: ir.Model) -> list[_Branch]:
    found = []
    for node in nodes_of(model, "Gemm"):
        up = list(node.inputs)
        down, base = producer(up[0], "Gemm"), producer(up[2] if len(up) == 3 else None, "Gemm")
        if down is None or base is None or down.inputs[0] is not base.inputs[0]:
            continue
        x, weight, a, b = base.inputs[0], base.inputs[1], down.inputs[1], up[1]
        assert x is not None
        assert weight is not None
        assert a is not None
        assert b is not None
        half = producer(a, "Cast")
        stored = half.inputs[0] if half is not None else a
        name = (stored.name if stored is not None else None) or ""
        bias = base.inputs[2] if len(base.inputs) == 3 else None
        found.append(_Branch(node, name.removesuffix(HALF), x, weight, bias, a, b))
    return found


def _join(model: ir.Model, branches: list[_Branch]) -> None:
    first = branches[0]
    ranks = [dims(branch.a)[0] for branch in branches]  # type: ignore[index]
    assert first.x.shape is not None
    rows, width = first.x.shape[0], first.x.shape[1]
    shared: list[ir.Node] = []
    a = first.a
    if len(branches) > 1:
        stacked = make("Concat", [b.a for b in branches], a, (sum(ranks), width), _axis(0))
        shared.append(stacked)
        a = stacked.outputs[0]
    down = make("Gemm", [first.x, a], first.x, (rows, sum(ranks)), _transposed())
    wide = (rows, width + sum(ranks))
    buffer = make("Concat", [first.x, down.outputs[0]], first.x, wide, _axis(-1))
    shared += [down, buffer]
    for number, branch in enumerate(branches):
        before, after = sum(ranks[:number]), sum(ranks[number + 1 :])
        out = branch.node.outputs[0]
        parts = [
            branch.weight,
            *_zeros(model, branch, before),
            branch.b,
            *_zeros(model, branch, after),
        ]
        shape = (dims(branch.weight)[0], wide[1])  # type: ignore[index]
        joined = make("Concat", parts, branch.weight, shape, _axis(1))
        inputs = [buffer.outputs[0], joined.outputs[0], branch.bias]
        gemm = make("Gemm", inputs[: 2 if branch.bias is None else 3], out, None, _transposed())
        replace(model, branch.node, [*(shared if number == 0 else ()), joined, gemm])
        gemm.name = branch.module
        joined.name = f"{branch.module}.joined"
    down.name = f"{first.module}{HALF}"


def _zeros(model: ir.Model, branch: _Branch, columns: int) -> list[ir.Value]:
    if not columns:
        return []
    rows = dims(branch.weight)[0]  # type: ignore[index]
    dtype = branch.weight.dtype
    assert dtype is not None
    array = np.zeros((rows, columns), dtype.numpy())
    return [constant(model, f"zeros.{dtype.name.lower()}.{rows}x{columns}", array, dtype)]


def _axis(axis: int) -> dict[str, ir.Attr]:
    return {"axis": ir.AttrInt64("axis", axis)}


def _transposed() -> dict[str, ir.Attr]:
    return {"transB": ir.AttrInt64("transB", 1)}
