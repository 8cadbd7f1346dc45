"""What kernels do: flops, part of the model, whether an adapter alone needs them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from wanrt.errors import EngineError
from wanrt.explain.kernel import Kernel, Operand
from wanrt.explain.operators import count_operator
from wanrt.machine.devices import DeviceRates
from wanrt.manifest.parts import part_of_module

__all__ = ["Sums", "Work", "bound_seconds", "examine", "sum_by_part", "sum_up"]

ATTENTION = "_gemm_mha"
GEMM = ("fully_connected", "gemm")  # by TensorRT-RTX's word and by TensorRT's
COMPUTING = ("bf16", "fp16", "fp32", "fp8", "int8", "fp4")
ADAPTER = (".lora_A", ".lora_B", ".joined")


@dataclass(frozen=True)
class Work:
    """One kernel, and what it does.

    Args:
        kernel: as the plan or the profile lists it.
        part: of a forward, as the manifest counts.
        flops: of its GEMM or attention, multiply and add counted as two; 0 for other kernels.
        dtype: what its GEMM or attention reads; None for other kernels.
        adapter: whether all of its nodes are an unmerged adapter's own.
    """

    kernel: Kernel
    part: str
    flops: int
    dtype: str | None
    adapter: bool

    @property
    def label(self) -> str:
        """What people know it by: the layers of its GEMM, its own name, or its kind."""
        layers = list(dict.fromkeys(n for n in self.kernel.nodes if part_of_module(n)))
        if not self.flops or not layers:
            return self.kernel.name.removeprefix("__myl_") or self.kernel.kind
        first, *others = layers
        scope = first.rpartition(".")[0]
        return "+".join([first, *(other.removeprefix(f"{scope}.") for other in others)])


@dataclass(frozen=True)
class Sums:
    """What several kernels do: bytes, flops, and the seconds that were measured (0 of a plan)."""

    moved: int = 0
    flops: int = 0
    seconds: float = 0.0


def examine(kernels: Iterable[Kernel]) -> tuple[Work, ...]:
    """Return what each kernel of a plan or a profile does.

    Raises:
        EngineError: a GEMM's or an attention's operands don't fit together; nothing is guessed.
    """
    return tuple(map(_examine, kernels))


def sum_by_part(work: Iterable[Work]) -> dict[str, Sums]:
    """Return the sums of each part, in the order of the kernels; `lora` is an adapter's."""
    found: dict[str, list[Work]] = {}
    for one in work:
        found.setdefault("lora" if one.adapter else one.part, []).append(one)
    return {part: sum_up(ones) for part, ones in found.items()}


def sum_up(work: Iterable[Work]) -> Sums:
    """Return the sums of some kernels."""
    ones = list(work)
    return Sums(
        sum(one.kernel.bytes for one in ones),
        sum(one.flops for one in ones),
        sum(one.kernel.seconds or 0.0 for one in ones),
    )


def bound_seconds(work: Sequence[Work], device: DeviceRates) -> tuple[float, ...]:
    """Return the seconds that each kernel takes at best: its flops or its bytes at the full rate.

    Raises:
        EngineError: the device's rate in what a GEMM reads isn't known.
    """
    rates: Mapping[str, float] = {name: rate * 1e12 for name, rate in device.tflops.items()}
    for one in work:
        if one.dtype is not None and one.dtype not in rates:
            raise EngineError(
                f"{device.name} has no rate in {one.dtype}, which {one.label} computes in",
                f"it has one in {', '.join(rates)}",
            )
    return tuple(
        max(
            one.kernel.bytes / (device.bandwidth_gb_s * 1e9),
            one.flops / rates[one.dtype] if one.dtype else 0.0,
        )
        for one in work
    )


def _examine(kernel: Kernel) -> Work:
    flops, dtype = 0, None
    if kernel.seconds is not None:
        flops, dtype = count_operator(kernel)
    elif kernel.name.startswith(ATTENTION):
        flops, dtype = _attend(kernel)
    elif kernel.kind in GEMM or kernel.name.startswith("__myl_Fc"):
        flops, dtype = _multiply(kernel)
    adapter = bool(kernel.nodes) and all(any(a in n for a in ADAPTER) for n in kernel.nodes)
    return Work(kernel, _find_part(kernel, flops), flops, dtype, adapter)


def _find_part(kernel: Kernel, flops: int) -> str:
    """Return a GEMM's layer's part; what else touches a block is elementwise work."""
    if flops:
        for node in kernel.nodes:
            if part := part_of_module(node):
                return part
    scopes = {node.partition(".")[0] for node in kernel.nodes}
    if "blocks" in scopes or not scopes:
        return "elementwise"
    return "head" if "head" in scopes else "embedding"


def _multiply(kernel: Kernel) -> tuple[int, str | None]:
    """[rows, in] x [in, out]: the weights are the last input, another one has the rows."""
    matrices = [operand for operand in kernel.inputs if len(operand.shape) > 1]
    for weight in reversed(matrices):
        if not weight.shape[-1] or weight.dtype not in COMPUTING:
            break
        for depth, columns in (weight.shape[-2:], weight.shape[:-3:-1]):  # or [out, in]
            if not columns:
                continue
            rows = prod(kernel.outputs[0].shape) // columns
            fits = [x for x in matrices if x is not weight and x.shape[-1] == depth]
            fits = [x for x in fits if prod(x.shape) == rows * depth]
            if fits:  # an fp32 residual of the epilogue may have the shape of x
                x = next((x for x in fits if x.dtype == weight.dtype), fits[0])
                return 2 * rows * depth * columns, x.dtype
    raise _unknown(kernel, matrices)


def _attend(kernel: Kernel) -> tuple[int, str | None]:
    """q [heads, rows, width], k [heads, width, keys], v [heads, keys, width]."""
    if len(kernel.inputs) < 3 or any(len(one.shape) < 3 for one in kernel.inputs[:3]):
        raise _unknown(kernel, kernel.inputs)
    q, _, v = kernel.inputs[:3]
    if prod(q.shape[:-2]) != prod(v.shape[:-2]):
        raise _unknown(kernel, kernel.inputs)
    scores = 2 * prod(q.shape) * v.shape[-2]
    return scores + 2 * prod(q.shape[:-1]) * prod(v.shape[-2:]), q.dtype


def _unknown(kernel: Kernel, operands: Iterable[Operand]) -> EngineError:
    shapes = ", ".join(str(list(operand.shape)) for operand in operands)
    return EngineError(
        f"what kernel {kernel.name} multiplies isn't known: {shapes}", "nothing is guessed from it"
    )
