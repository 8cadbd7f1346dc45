"""Check a caller's inputs against the engine's: names, dtypes, shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from wanrt.engine.tensors import match_shape, show_shape
from wanrt.errors import EngineError
from wanrt.manifest.fields import TensorSpec

__all__ = ["check_input", "check_names"]


def check_names(given: Iterable[str], data: Iterable[str], adapter: Iterable[str]) -> None:
    """Check that a forward's inputs are the data inputs, all of them and nothing else.

    Raises:
        EngineError: one is missing, unknown, or the adapter's.
    """
    names, known = set(given), list(data)
    hint = f"inputs: {', '.join(known)}"
    for name in sorted(names & set(adapter)):
        raise EngineError(f"input {name} is the adapter's", "load it with swap(FILE)")
    for name in sorted(names - set(known)):
        raise EngineError(f"there is no input {name}", hint)
    for name in known:
        if name not in names:
            raise EngineError(f"input {name} is missing", hint)


def check_input(
    spec: TensorSpec,
    dtype: str,
    shape: tuple[int, ...],
    symbols: dict[str, int],
    workload: Mapping[str, tuple[int, ...]],
) -> None:
    """Check an input's dtype and shape, the latter against the workload's too if it gives one.

    Raises:
        EngineError: either is another.
    """
    if dtype != spec.dtype:
        raise EngineError(f"input {spec.name} is {dtype}, the engine takes {spec.dtype}")
    match_shape(spec, shape, symbols)
    want = workload.get(spec.name, shape)
    if shape != want:
        raise EngineError(
            f"input {spec.name} has shape {show_shape(shape)}, the workload's is {show_shape(want)}"
        )
