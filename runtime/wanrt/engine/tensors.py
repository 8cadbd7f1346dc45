"""The manifest's dtypes in numpy's and ONNX's terms, and shapes with symbolic dimensions."""

from __future__ import annotations

from collections.abc import Mapping

from wanrt.errors import EngineError
from wanrt.manifest.fields import TensorSpec

__all__ = ["match_shape", "resolve_shape"]


def match_shape(spec: TensorSpec, shape: tuple[int, ...], symbols: dict[str, int]) -> None:
    """Check a shape against an input's; its symbolic dimensions are added to `symbols`.

    Raises:
        EngineError: another number of dimensions, another size, or a symbol with two sizes.
    """
    fits = len(shape) == len(spec.shape)
    for want, got in zip(spec.shape, shape, strict=False):
        size = symbols.setdefault(want, got) if isinstance(want, str) else want
        fits = fits and size == got
    if not fits:
        raise EngineError(
            f"input {spec.name} has shape {show_shape(shape)}, "
            f"the engine takes {show_shape(spec.shape, symbols)}"
        )


def resolve_shape(spec: TensorSpec, symbols: Mapping[str, int]) -> tuple[int, ...] | None:
    """Return a tensor's shape with its symbols replaced, or None if one of them is unknown."""
    sizes = [symbols.get(dim) if isinstance(dim, str) else dim for dim in spec.shape]
    known = tuple(size for size in sizes if size is not None)
    return known if len(known) == len(sizes) else None


def show_shape(shape: tuple[int | str, ...], symbols: Mapping[str, int] | None = None) -> str:
    """Return `[1, 36, F=3]`: a shape as errors print it."""
    known = symbols or {}
    sizes = (f"{d}={known[d]}" if isinstance(d, str) and d in known else str(d) for d in shape)
    return f"[{', '.join(sizes)}]"
