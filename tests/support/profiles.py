"""Profiles as ONNX Runtime writes them, made by hand: events of a session, runs and operators."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Tensor = tuple[str, tuple[int, ...]]
"""ONNX Runtime's word for a dtype, and a shape."""
MS = 1000


def event(cat: str, name: str, ts: int, dur: int, **args: Any) -> dict[str, Any]:
    """Return an event; times count microseconds."""
    return {"cat": cat, "pid": 1, "tid": 1, "ph": "X", "name": name, "ts": ts, "dur": dur,
            "args": args}  # fmt: skip


def operator(
    op: str, node: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor], ts: int = 0
) -> dict[str, Any]:
    """Return the event of an operator that took a millisecond."""
    return event(
        "Node",
        f"{node}_kernel_time",
        ts,
        MS,
        op_name=op,
        provider="CPUExecutionProvider",
        node_index="7",
        input_type_shape=[{dtype: list(shape)} for dtype, shape in inputs],
        output_type_shape=[{dtype: list(shape)} for dtype, shape in outputs],
    )


def to_profile(*operators: dict[str, Any]) -> str:
    """Return a profile of two forwards, of which the second ran these operators, a ms each."""
    first = event("Node", "stem.First_kernel_time", 60, 5, op_name="Odd",
                  input_type_shape=[], output_type_shape=[])  # fmt: skip
    begin = 1000
    ran = [{**one, "ts": begin + MS * n} for n, one in enumerate(operators)]
    return json.dumps([
        event("Session", "model_loading_uri", 3, 40),
        first,
        event("Session", "model_run", 50, 100),
        *reversed(ran),  # as threads may write them
        event("Session", "model_run", begin, MS * (len(ran) + 1)),
    ])  # fmt: skip


def linear(node: str, rows: int = 6, width: int = 16, packed: bool = False) -> dict[str, Any]:
    """Return x W^T + b; the profile leaves out a repacked weight."""
    weight = () if packed else (("float", (width, width)),)
    inputs = (("float", (rows, width)), *weight, ("float", (width,)))
    return operator("Gemm", node, inputs, [("float", (rows, width))])
