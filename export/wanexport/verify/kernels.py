"""What the builder made of a graph, checked in the plan itself before the engine exists.

A TensorRT-RTX plan lists its kernels, so that a GEMM which silently computes in another precision,
or an attention that stores its scores, shows without a GPU.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from wanexport.errors import BuildError
from wanrt.errors import EngineError
from wanrt.explain.plan import read_kernels
from wanrt.explain.work import examine
from wanrt.manifest.fields import Dtype

__all__ = ["check_kernels"]


def check_kernels(
    plan: Path,
    dtype: Dtype,
    attentions: int,
    *,
    allow_unfused: bool,
    quantized: Collection[str] = (),
    scheme: str | None = None,
) -> str:
    """Check that every attention is one kernel, and what every GEMM of a block computes in.

    That is the engine's dtype, and of quantised layers the scheme. The timestep's own layers stay
    in fp32, as in diffusers, and aren't looked at.

    Args:
        plan: the plan.
        dtype: the engine's.
        attentions: how many the graph has.
        allow_unfused: accept an attention that isn't one kernel.
        quantized: layers whose product is in 8 bits.
        scheme: which: fp8 or int8.

    Returns:
        Why the plan can't be read, and so wasn't checked; empty if it was.

    Raises:
        BuildError: an attention isn't one kernel, a GEMM reads something else than the engine says,
            or a quantised layer has no GEMM that reads its scheme.
    """
    try:
        work = examine(read_kernels(plan))
    except EngineError as error:
        return str(error)
    fused = sum(one.part.endswith("attention") for one in work)
    if fused != attentions and not allow_unfused:
        raise BuildError(
            f"TensorRT fused {fused} of {attentions} attentions; the others store their scores",
            "build with --dtype fp16 or bf16, or accept slow attention with --allow-unfused",
        )
    left = set(quantized)
    for one in work:
        if one.dtype is None or one.part == "embedding":
            continue
        narrow = left.intersection(one.kernel.nodes) if one.dtype == scheme else set()
        left -= narrow
        if one.dtype != dtype and not narrow:
            raise _other(one.label, one.dtype, f"the engine is {dtype}")
    if left:
        layer = min(left)
        found = next((one for one in work if one.flops and layer in one.kernel.nodes), None)
        raise _other(layer, (found and found.dtype) or "an unknown dtype", f"it is to be {scheme}")
    return ""


def _other(layer: str, found: str, expected: str) -> BuildError:
    return BuildError(
        f"TensorRT computes {layer} in {found}, though {expected}",
        "report it: this version of TensorRT-RTX chose another precision",
    )
