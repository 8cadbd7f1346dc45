"""Show that an engine's graph and weights compute what they should, before the engine may exist."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir
from torch import Tensor

from wanexport.errors import VerificationError
from wanexport.graph.trace import GraphSpec
from wanexport.storage.dtypes import torch_dtype
from wanexport.storage.tensor_file import (
    TensorRef,
)
from wanexport.verify.segments import run_segments
from wanexport.verify.twin import same_structure, twin_inputs, twin_size, twin_spec
from wanrt.manifest.origin import Verification

__all__ = ["Expected", "relative_l2", "verify_engine"]

FP32_TOLERANCE = 1e-5
DTYPE_FACTOR = 1.5


@dataclass(frozen=True)
class Expected:
    """The reference's outputs for one engine on the twin's inputs.

    Args:
        sample: in fp32.
        base: of the base without the adapter, in fp32; None if there is no adapter.
        rounded: in the engine's dtype, where that dtype is what is verified.
    """

    sample: Tensor
    base: Tensor | None = None
    rounded: Tensor | None = None


def verify_engine(
    folder: Path,
    engine: ir.Model,
    twin: ir.Model,
    spec: GraphSpec,
    bound: Mapping[str, TensorRef],
    adapter: Mapping[str, Tensor],
    expected: Expected,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Verification:
    """Run the twin on the engine's bytes and compare it with the expected.

    Args:
        folder: the engine folder; temporary files go there and are removed.
        engine: the engine's graph.
        twin: the graph traced from `twin_spec(spec)`, lowered like the engine's.
        spec: what the engine's graph was traced from.
        bound: where each initializer's bytes lie.
        adapter: values of a swappable engine's adapter inputs.
        expected: what should come out.
        on_bytes: called after the stem, every block and the head, with the bytes of its weights.

    Raises:
        VerificationError: the error exceeds what the dtype allows, or the output isn't finite.
    """
    same_structure(engine, twin)
    dtype = twin_spec(spec).dtype
    size = twin_size(spec.arch, spec.size)
    feeds = twin_inputs(spec)
    values = {
        name: tensor.to(torch_dtype("fp32" if name == "timestep" else dtype))
        for name, tensor in feeds.items()
    }
    values.update({name: tensor.to(torch_dtype(dtype)) for name, tensor in adapter.items()})
    sample = run_segments(folder, twin, spec.arch.num_layers, bound, values, on_bytes)
    error = relative_l2(sample, expected.sample)
    reference = None if expected.rounded is None else relative_l2(expected.rounded, expected.sample)
    tolerance = FP32_TOLERANCE if reference is None else DTYPE_FACTOR * reference
    if not math.isfinite(error):
        raise VerificationError(
            "the engine's output isn't finite",
            "look for NaN or overflow in the weights: wanexport inspect; fp16 overflows where "
            "bf16 doesn't",
        )
    if error > tolerance:
        raise VerificationError(
            f"the engine's outputs are off by {error:.2g} (relative L2), more than {tolerance:.2g}",
            "these versions of torch, onnx and onnxruntime don't agree; see constraints.txt",
        )
    effect = None if expected.base is None else relative_l2(expected.sample, expected.base)
    return Verification(
        method="blocks",
        dtype=dtype,  # type: ignore[arg-type]
        tokens=size.tokens,
        error=error,
        tolerance=tolerance,
        reference_error=reference,
        adapter_effect=effect,
    )


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """Return |actual - expected| / |expected| over all elements, in fp64."""
    difference = (actual.double() - expected.double()).norm()
    return float(difference / expected.double().norm())
