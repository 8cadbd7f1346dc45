"""Which layers a quantised engine multiplies in few bits: block linears, less what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final, Literal

from wanexport.errors import UsageError
from wanexport.model.config import Architecture
from wanexport.model.names import module_shapes
from wanrt.manifest.schema import Backend

__all__ = [
    "NO_BACKEND",
    "Format",
    "Scheme",
    "find_format",
    "scale_name",
    "select_quantized",
]

Scheme = Literal["none", "fp8", "int8", "nvfp4"]


@dataclass(frozen=True)
class Format:
    """How values of 8 bits are made of others.

    Args:
        scheme: fp8 (E4M3) or int8.
        stored: the dtype in a weight file.
        largest: what the largest value of a row becomes.
        step: what 1 stands for inside a product: a power of two, so that every dtype holds it.
        transposed: whether weights are stored as [in, out].
        activations: what of an input shares a scale.
    """

    scheme: Literal["fp8", "int8"]
    stored: str
    largest: float
    step: float
    transposed: bool = False
    activations: Literal["token", "tensor"] = "token"

    @property
    def limit(self) -> float:
        """What the largest value stands for inside a product: just below 1."""
        return self.largest * self.step


FP8: Final = Format("fp8", "F8_E4M3", 448.0, 2**-9)
INT8: Final = Format("int8", "I8", 127.0, 2**-7)
ORT_INT8: Final = Format("int8", "I8", 127.0, 2**-7, transposed=True, activations="tensor")

NO_BACKEND: Final = {
    "fp8": "ONNX Runtime's CPU has no fp8 product: it would round to fp8 and multiply in fp32",
    "nvfp4": "ONNX Runtime's CPU has no fp4 product, and its dtype isn't in its operators",
}
"""Why ONNX Runtime's CPU can't run engines of a scheme."""

BLOCKS: Final = "blocks."
SUFFIX: Final = ".weight"


def find_format(scheme: Scheme, backend: Backend) -> Format | None:
    """Return how engines of a scheme hold and multiply 8 bits on a backend; None: not at all."""
    if backend == "onnxruntime":
        return ORT_INT8 if scheme == "int8" else None
    return {"fp8": FP8, "int8": INT8}.get(scheme)


def select_quantized(arch: Architecture, exclude: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the linear layers of the blocks that no pattern leaves out, in the model's order.

    Raises:
        UsageError: a pattern matches none of them, or all are left out.
    """
    linear = [
        name.removesuffix(SUFFIX)
        for name, shape in module_shapes(arch).items()
        if name.startswith(BLOCKS) and name.endswith(SUFFIX) and len(shape) == 2
    ]
    for pattern in exclude:
        if not any(fnmatchcase(name, pattern) for name in linear):
            raise UsageError(
                f"--quantize-exclude {pattern} matches no linear layer of a block",
                "patterns match whole names: '*.attn2.to_out.0', 'blocks.0.*'",
            )
    kept = tuple(n for n in linear if not any(fnmatchcase(n, pattern) for pattern in exclude))
    if not kept:
        raise UsageError(
            "--quantize-exclude leaves nothing to quantise", "drop a pattern, or --quantize"
        )
    return kept


def scale_name(weight: str) -> str:
    """Return the name of the scales of a quantised weight, one per output feature."""
    return f"{weight}_scale"
