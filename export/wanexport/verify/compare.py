"""Compare an engine's graph and weights with the reference before the engine is published."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir
from torch import Tensor

from wanexport.errors import VerificationError
from wanexport.graph.swappable import STRENGTHS
from wanexport.graph.trace import GraphSpec
from wanexport.model.quantization import Format, scale_name
from wanexport.storage.dtypes import torch_dtype
from wanexport.storage.tensor_file import TensorRef
from wanexport.verify.fidelity import Effect
from wanexport.verify.segments import run_segments
from wanexport.verify.twin import same_structure, twin_spec
from wanexport.weights.quantize import DequantizedRef
from wanrt.manifest.origin import Verification

__all__ = ["TOLERANCES", "Expected", "Subject", "relative_l2", "verify_engine"]

FP32_TOLERANCE = 3e-6
"""Five times what is left (2.7e-7 to 5.7e-7 of 1 to 40 layers as wide as 512, in every mode).

Less than the 4e-6 that timestep frequencies off in the last bit made. Large weights amplify what is
rounded: to 1.5e-6 times four, 2.5e-6 where those are the query's and key's norms. What 40 layers of
width 5120 leave hasn't been measured since the frequencies are diffusers' own.
"""
TOLERANCES = {"int8": 5e-2, "fp8": 1e-1}
"""Of a whole model. Random weights leave 1e-2 and 3e-2; real ones were never tried."""
DTYPE_FACTOR = 1.5  # of PyTorch's own error in the engine's dtype


@dataclass(frozen=True)
class Subject:
    """The engine that is verified.

    Args:
        folder: its folder; temporary files go there and are removed.
        spec: what its graph was traced from.
        graph: its graph.
        twin: the graph traced from `twin_spec(spec)`, lowered like the engine's.
        small: of a bf16 engine, the graph traced from `small_spec(spec)`, lowered likewise.
        bound: where each initializer's bytes lie.
        inputs: what it is run with, in fp32: the first is compared, all tell what an engine keeps.
        plain: of a quantised engine, the twin without products of 8 bits.
        form: of a quantised engine's 8 bits.
    """

    folder: Path
    spec: GraphSpec
    graph: ir.Model
    twin: ir.Model
    small: ir.Model | None
    bound: Mapping[str, TensorRef]
    inputs: Sequence[Mapping[str, Tensor]]
    plain: ir.Model | None = None
    form: Format | None = None


@dataclass(frozen=True)
class Expected:
    """The reference's outputs for one engine on the first of its inputs.

    Args:
        sample: in fp32.
        base: of the base without the adapter, in fp32; None if there is no adapter.
        rounded: in the engine's dtype; None if that is fp32.
        pristine: of a quantised engine, in fp32 with the weights before they are quantised.
        effect: what a full fine-tune beside it changes, by all inputs; None without one.
    """

    sample: Tensor
    base: Tensor | None = None
    rounded: Tensor | None = None
    pristine: Tensor | None = None
    effect: Effect | None = None


def verify_engine(
    subject: Subject,
    adapter: Mapping[str, Tensor],
    expected: Expected,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> Verification:
    """Run an engine's graph on its own bytes and compare it with the expected.

    A bf16 graph is run twice: in fp32, which is sharp, and emulated, which is the graph itself.

    Args:
        subject: the engine.
        adapter: values of a swappable engine's adapter inputs.
        expected: what should come out.
        on_bytes: called after the stem, every block and the head, with the bytes of its weights.

    Raises:
        VerificationError: an error exceeds what the dtype allows, or an output isn't finite.
    """
    same_structure(subject.graph, subject.twin)
    if subject.plain is not None and subject.form is not None:
        plain = replace(subject, twin=subject.plain, bound=_dequantized(subject, subject.form))
        return _verify_quantized(subject, plain, subject.form, adapter, expected, on_bytes)
    spec, dtype = subject.spec, twin_spec(subject.spec).dtype
    error, samples = _measure(subject, subject.twin, adapter, expected, on_bytes)
    reference = None if expected.rounded is None else relative_l2(expected.rounded, expected.sample)
    tolerance = FP32_TOLERANCE if dtype == "fp32" else _allowed(reference, spec.dtype)
    if error > tolerance:
        raise VerificationError(
            f"the engine's outputs are off by {error:.2g} (relative L2), more than {tolerance:.2g}",
            "do the weights have very large values? they amplify what is rounded. Otherwise these "
            "versions of torch, onnx and onnxruntime don't agree; see constraints.txt",
        )
    emulated = None
    if subject.small is not None:
        emulated = _verify_emulated(subject, subject.small, adapter, expected, on_bytes)
    effect = None if expected.base is None else relative_l2(expected.sample, expected.base)
    return Verification(
        method="blocks",
        dtype=dtype,  # type: ignore[arg-type]
        tokens=twin_spec(spec).size.tokens,
        error=error,
        tolerance=tolerance,
        reference_error=reference,
        adapter_effect=effect,
        emulated_error=emulated,
        fidelity=expected.effect.measure(samples) if expected.effect else None,
    )


def _verify_quantized(
    subject: Subject,
    plain: Subject,
    form: Format,
    adapter: Mapping[str, Tensor],
    expected: Expected,
    on_bytes: Callable[[int], None],
) -> Verification:
    """Compare a quantised engine twice: its stored weights sharply, its products with a tolerance.

    With the stored q and scales multiplied in fp32 the outputs are the model's with these weights,
    as sharply as those of an fp32 engine (an fp16 one in fp16, as any). What quantising weights and
    activations costs is measured against the model before it was quantised. ONNX Runtime has no
    product of fp8: it rounds to fp8 and multiplies in fp32, which is what the graph says.
    """
    assert expected.pristine is not None
    dtype = twin_spec(subject.spec).dtype
    first = replace(plain, inputs=plain.inputs[:1])
    sharp, _ = _measure(first, first.twin, adapter, expected, on_bytes)
    reference = None if expected.rounded is None else relative_l2(expected.rounded, expected.sample)
    allowed = FP32_TOLERANCE if dtype == "fp32" else _allowed(reference, subject.spec.dtype)
    if sharp > allowed:
        raise VerificationError(
            f"the engine's outputs with its {form.scheme} weights in {dtype} products are off by "
            f"{sharp:.2g} (relative L2), more than {allowed:.2g}",
            "these versions of torch, onnx and onnxruntime don't agree; see constraints.txt",
        )
    pristine = replace(expected, sample=expected.pristine)
    error, samples = _measure(subject, subject.twin, adapter, pristine, on_bytes)
    emulated = None
    if subject.small is not None:
        same_structure(subject.graph, subject.small, casts=True)
        first = replace(subject, inputs=subject.inputs[:1])
        emulated, _ = _measure(first, subject.small, adapter, pristine, on_bytes, emulated=True)
    tolerance = TOLERANCES[form.scheme]
    worst = max(error, emulated or 0.0)
    if worst > tolerance:
        raise VerificationError(
            f"quantised to {form.scheme}, the outputs are off by {worst:.2g} (relative L2), more "
            f"than {tolerance:.2g}",
            "leave the layers with the largest values out: --quantize-exclude '*.ffn.*'",
        )
    effect = None if expected.base is None else relative_l2(expected.sample, expected.base)
    return Verification(
        method="blocks",
        dtype=dtype,  # type: ignore[arg-type]
        tokens=twin_spec(subject.spec).size.tokens,
        error=error,
        tolerance=tolerance,
        reference_error=reference,
        adapter_effect=effect,
        emulated_error=emulated,
        fidelity=expected.effect.measure(samples) if expected.effect else None,
    )


def _dequantized(subject: Subject, form: Format) -> dict[str, TensorRef]:
    """Return where weights lie, the quantised ones to be read as what they stand for."""
    bound = dict(subject.bound)
    for name, ref in subject.bound.items():
        scale = subject.bound.get(scale_name(name))
        if scale is not None:
            place = (ref.name, ref.dtype, ref.shape, ref.path, ref.offset)
            bound[name] = DequantizedRef(*place, scale, form)
    return bound


def _verify_emulated(
    subject: Subject,
    small: ir.Model,
    adapter: Mapping[str, Tensor],
    expected: Expected,
    on_bytes: Callable[[int], None],
) -> float:
    """Run a bf16 engine's own graph, emulated, and return its error."""
    assert expected.rounded is not None
    same_structure(subject.graph, small, casts=True)
    first = replace(subject, inputs=subject.inputs[:1])
    error, _ = _measure(first, small, adapter, expected, on_bytes, emulated=True)
    tolerance = _allowed(relative_l2(expected.rounded, expected.sample), subject.spec.dtype)
    if error > tolerance:
        raise VerificationError(
            f"the bf16 graph's outputs, emulated, are off by {error:.2g} (relative L2), more than "
            f"{tolerance:.2g}, though the same graph in fp32 isn't",
            "build it with --dtype fp32 or fp16, and report it",
        )
    return error


def _measure(
    subject: Subject,
    graph: ir.Model,
    adapter: Mapping[str, Tensor],
    expected: Expected,
    on_bytes: Callable[[int], None],
    *,
    emulated: bool = False,
) -> tuple[float, list[Tensor]]:
    """Run a graph on the engine's bytes; return its error and what came out of all inputs.

    Raises:
        VerificationError: the output isn't finite.
    """
    spec = subject.spec
    dtype = "fp32" if emulated else twin_spec(spec).dtype
    values = [
        {
            name: tensor.to(torch_dtype("fp32" if name in ("timestep", STRENGTHS) else dtype))
            for name, tensor in {**inputs, **adapter}.items()
        }
        for inputs in subject.inputs
    ]
    layers = spec.arch.num_layers
    samples = run_segments(
        subject.folder, graph, layers, subject.bound, values, on_bytes, emulated=emulated
    )
    error = relative_l2(samples[0], expected.sample)
    if not math.isfinite(error):
        raise VerificationError(
            "the engine's output isn't finite",
            "look for NaN or overflow in the weights: wanexport inspect; fp16 overflows where "
            "bf16 doesn't",
        )
    return error, samples


def _allowed(reference: float | None, dtype: str) -> float:
    """Return the error that a dtype explains.

    Raises:
        VerificationError: PyTorch's own output in that dtype isn't finite, so nothing is explained.
    """
    if reference is None or not math.isfinite(reference):
        raise VerificationError(
            f"PyTorch's own output in {dtype} isn't finite", "build it in bf16 or fp32: --dtype"
        )
    return DTYPE_FACTOR * reference


def relative_l2(actual: Tensor, expected: Tensor) -> float:
    """Return |actual - expected| / |expected| over all elements, in fp64."""
    difference = (actual.double() - expected.double()).norm()
    return float(difference / expected.double().norm())
