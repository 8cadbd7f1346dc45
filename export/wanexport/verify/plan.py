"""Run a plan on the GPU that built it and compare its outputs, before the engine is published.

A stripped plan whose refit went wrong says zero, and TensorRT 11.3 could lose a bias: neither shows
in the graph, which is verified on a CPU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wanexport.errors import VerificationError
from wanexport.storage.dtypes import torch_dtype
from wanexport.verify.compare import TOLERANCES, Expected, relative_l2
from wanrt.backends.load import load_engine
from wanrt.engine.engine import Engine
from wanrt.engine.inputs import make_inputs
from wanrt.manifest.schema import Manifest

__all__ = ["PLAN_FACTOR", "Stacked", "verify_plan"]

Stacked = tuple[tuple[Path, float], ...]
"""Files that a swappable engine swaps in together, with their strengths; none: as it is."""

PLAN_FACTOR = 1.5  # of PyTorch's own error in the engine's dtype


def verify_plan(
    folder: Path,
    manifest: Manifest,
    inputs: Mapping[str, Tensor],
    expected: Sequence[tuple[Stacked, Expected]],
) -> float | None:
    """Run a finished engine folder and return its output's relative L2 error.

    Args:
        folder: the engine folder, engine.json written.
        manifest: what it says.
        inputs: what the expected were asked, in fp32; used if there are expected.
        expected: what should come out of each stack of a swappable engine, or of an engine as it
            is; empty if the engine takes other sizes than a reference can be run with.

    Returns:
        The worst error; None without expected: then the outputs are finite and not all zero.

    Raises:
        VerificationError: the outputs are all zero, not finite, or off by more than the dtype
            explains.
    """
    plan = manifest.forward.plan
    streams = plan is not None and plan.weight_streaming  # it may be larger than the GPU's memory
    with load_engine(folder, weight_streaming=0 if streams else None) as engine:
        if not expected:
            workload = next(iter(manifest.workloads.values()))
            _run(engine, make_inputs(manifest, workload, seed=0))
            return None
        return max(_compare(engine, inputs, stack, outputs) for stack, outputs in expected)


def _compare(
    engine: Engine,
    inputs: Mapping[str, Tensor],
    stack: Stacked,
    expected: Expected,
) -> float:
    assert expected.rounded is not None
    if stack:
        engine.swap(stack)
    dtype = torch_dtype(engine.manifest.dtype)
    feeds = {n: v if n == "timestep" else v.to(dtype) for n, v in inputs.items()}
    sample = torch.from_numpy(_run(engine, feeds).astype(np.float32))
    right, quantization = expected.sample, engine.manifest.quantization
    tolerance = PLAN_FACTOR * relative_l2(expected.rounded, expected.sample)
    if quantization is not None and expected.pristine is not None:
        right, tolerance = expected.pristine, TOLERANCES[quantization.scheme]
    error = relative_l2(sample, right)
    if error > tolerance:
        raise VerificationError(
            f"the plan's outputs are off by {error:.2g} (relative L2), more than {tolerance:.2g}, "
            "though its graph's aren't",
            "try --refit none or --bake, and report it: this version of TensorRT computes "
            "something else",
        )
    return error


def _run(
    engine: Engine, inputs: Mapping[str, object]
) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]]:
    sample = engine.forward(**inputs)["sample"]
    values = sample.astype(np.float32)
    if not values.any():
        raise VerificationError(
            "the plan's output is all zero: its weights weren't refitted", "try --bake; report it"
        )
    if not np.isfinite(values).all():
        raise VerificationError(
            "the plan's output isn't finite",
            "look for NaN or overflow in the weights: wanexport inspect; fp16 overflows where "
            "bf16 doesn't",
        )
    return sample
