"""Texts of TensorRT-RTX plans, written by hand: what a plan lists of a graph's kernels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

HEADER = b"vtrt".ljust(24, b"\0") + bytes((1, 7, 1, 116)) + b"\0"
Tensor = tuple[str, str, tuple[int, ...]]
"""Name, type as the plan calls it, shape."""


def write_plan(path: Path, tensors: Sequence[Tensor], kernels: Sequence[str]) -> Path:
    """Write a plan that lists these tensors and kernels."""
    lines = [
        f'  tensor={{ dims={{ {" ".join(map(str, shape))} }} name="{name}" type={dtype} }}'
        for name, dtype, shape in tensors
    ]
    lines += [f"  {kernel}" for kernel in kernels]
    path.write_bytes(HEADER + b"\ndescriptors {\n" + "\n".join(lines).encode() + b"\n}\n\0")
    return path


def sub_tensor(name: str, base: str, offset: int, shape: tuple[int, ...], dtype: str) -> str:
    """Return a part of another tensor's buffer, to be listed before the kernels that use it."""
    dims = " ".join(map(str, shape))
    return (
        f'sub_tensor={{ base="{base}" const_offset={offset} dims={{ {dims} }} name="{name}" '
        f"type={dtype} }}"
    )


def gemm(node: str, x: str, weight: str, y: str, kind: str = "fully_connected") -> str:
    """Return a kernel that multiplies x [rows, in] by a weight [in, out]."""
    inputs, outputs = ("input", "output") if kind == "fully_connected" else (
        "input_args", "output_args")  # fmt: skip
    name = node if kind == "fully_connected" else "__myl_FcAdd"
    return (
        f'{kind}={{ name="{name}" {outputs}={{"{y}" }} {inputs}={{"{x}" "{weight}" }} stream=0 '
        f'layers="[ONNX Layer: {node}]" }}'
    )


def function(name: str, nodes: Sequence[str], inputs: Sequence[str], output: str) -> str:
    """Return a kernel of any other kind."""
    layers = "\x1f".join(f"[ONNX Layer: {node}]" for node in nodes)
    named = " ".join(f'"{one}"' for one in inputs)
    return (
        f'function={{ name={name} input_args={{ {named} }} output_args={{ "{output}" }} stream=1 '
        f'layers="{layers}" }}'
    )


def exchange(kind: str, node: str, x: str, y: str) -> str:
    """Return a collective of several cards, as comm_alltoall."""
    return (
        f'{kind}={{ name="{node}" output={{"{y}" }} input={{"{x}" }} stream=0 communicator_id=0 '
        f'backend=0 layers="[ONNX Layer: {node}]" }}'
    )


ROWS, WIDTH, HEADS, HEAD, RANK = 6, 16, 2, 8, 4
TENSORS: tuple[Tensor, ...] = (
    ("x", "bf16", (ROWS, WIDTH)), ("w", "bf16", (WIDTH, WIDTH)), ("y", "bf16", (ROWS, WIDTH)),
    ("q", "bf16", (HEADS, ROWS, HEAD)), ("k", "bf16", (HEADS, HEAD, ROWS)),
    ("v", "bf16", (HEADS, ROWS, HEAD)), ("z", "bf16", (HEADS, ROWS, HEAD)),
    ("a", "bf16", (WIDTH, RANK)), ("t", "bf16", (ROWS, RANK)), ("n", "bf16", (ROWS, WIDTH)),
    ("w32", "float", (WIDTH, WIDTH)), ("x32", "float", (ROWS, WIDTH)),
)  # fmt: skip
FULL = (
    gemm("stem.condition_embedder.time_proj", "x", "w", "y"),
    function("__myl_CastMul", ["blocks.0.Mul", "stem.Cast"], ["x"], "n"),
    gemm("blocks.0.attn1.to_q", "x", "w", "y", "runtime_fusion"),
    function("_gemm_mha_v2", ["blocks.0.attn1.attention"], ["q", "k", "v"], "z"),
    gemm("blocks.0.ffn.net.2", "x", "w", "y"),
    gemm("head.proj_out", "x", "w", "y"),
)
SEPARATE = (*FULL[:2], gemm("blocks.0.attn2.to_q.lora_A", "x", "a", "t"), *FULL[2:])
