"""Which layers a quantised engine multiplies in few bits: block linears, less what is left out."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Final, Literal

from wanexport.errors import UsageError
from wanexport.model.config import Architecture
from wanexport.model.names import module_shapes

__all__ = ["NO_BACKEND", "Scheme", "scale_name", "select_quantized"]

Scheme = Literal["none", "fp8", "int8", "nvfp4"]

NO_BACKEND: Final = {
    "fp8": "ONNX Runtime's CPU has no fp8 product: it would round to fp8 and multiply in fp32",
    "nvfp4": "ONNX Runtime's CPU has no fp4 product, and its dtype isn't in its operators",
}
"""Why ONNX Runtime's CPU can't run engines of a scheme."""

BLOCKS: Final = "blocks."
SUFFIX: Final = ".weight"


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
