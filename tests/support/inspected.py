"""A TensorRT inspector's account of an engine, made by hand after NVIDIA's documents."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

Tensor = tuple[str, str, tuple[int, ...]]
"""Name, TensorRT's word for a dtype, shape."""


def layer(
    kind: str,
    name: str,
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    nodes: Sequence[str] = (),
    dtype_key: str = "Format/Datatype",
) -> dict[str, Any]:
    """Return a layer as `ProfilingVerbosity.DETAILED` describes it; 11.x has another dtype key."""
    sides = [
        [{"Name": n, "Location": "Device", "Dimensions": list(s), dtype_key: d} for n, d, s in side]
        for side in (inputs, outputs)
    ]
    return {
        "Name": name, "LayerType": kind, "Inputs": sides[0], "Outputs": sides[1],
        "TacticName": "sm90_xmma_gemm", "StreamId": 0,
        "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
    }  # fmt: skip


def account(*layers: dict[str, Any]) -> str:
    """Return a whole `layers.json`."""
    return json.dumps(
        {"network": {"SHUFFLE fp16": 1}, "engine": {"Layers": layers, "Bindings": []}}
    )


def linear(dtype_key: str = "Format/Datatype", **changes: Any) -> dict[str, Any]:
    """Return a GEMM of [6, 16] and a weight [24, 16], with cuBLAS's alpha and beta."""
    one = layer(
        "gemm", "to_q_myl0_1",
        [("x", "Half", (6, 16)), ("w", "Half", (24, 16)), ("alpha", "Float", (1,)),
         ("beta", "Float", (1,))],
        [("y", "Half", (6, 24))], ["blocks.0.attn1.to_q"], dtype_key,
    )  # fmt: skip
    return {**one, **changes}
