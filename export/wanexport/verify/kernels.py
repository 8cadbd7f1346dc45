"""What the builder made of a graph, checked in the plan itself before the engine exists.

A TensorRT-RTX plan lists its kernels, so that a GEMM which silently computes in another precision,
or an attention that stores its scores, shows without a GPU.
"""

from __future__ import annotations

from pathlib import Path

from wanexport.errors import BuildError
from wanrt.errors import EngineError
from wanrt.explain.plan import read_kernels
from wanrt.explain.work import examine
from wanrt.manifest.fields import Dtype

__all__ = ["check_kernels"]


def check_kernels(plan: Path, dtype: Dtype, attentions: int, *, allow_unfused: bool) -> str:
    """Check that every attention is one kernel, and every GEMM of a block in the engine's dtype.

    The timestep's own layers stay in fp32, as in diffusers, and aren't looked at.

    Returns:
        Why the plan can't be read, and so wasn't checked; empty if it was.

    Raises:
        BuildError: an attention isn't one kernel (unless `allow_unfused`), or a GEMM reads
            something else than the engine says.
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
    for one in work:
        if one.dtype not in (None, dtype) and one.part != "embedding":
            raise BuildError(
                f"TensorRT computes {one.label} in {one.dtype}, though the engine is {dtype}",
                "report it: this version of TensorRT-RTX chose another precision",
            )
    return ""
