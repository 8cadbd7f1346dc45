"""Stacks: canonical adapters side by side in an engine's slots, each with a strength of its own.

An engine takes rows of A and columns of B up to its largest rank, its slots. Each adapter of a
stack has one range of them in every module, as wide as its largest rank, so that one vector of
strengths [slots] serves the whole engine: a swappable engine multiplies A's rows by it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np

from wanrt.engine.adapter import RANK_AXIS, read_adapter
from wanrt.engine.values import largest, limit
from wanrt.errors import AdapterError, EngineError
from wanrt.manifest.fields import TensorSpec
from wanrt.manifest.schema import Manifest
from wanrt.storage.dtypes import Array
from wanrt.terminal.text import counted

__all__ = ["AdapterArgument", "Stack", "list_adapters", "read_stack", "split_strength"]

AdapterArgument = Path | str | Sequence[tuple[Path | str, float]] | None
"""A canonical adapter at strength 1, several (file, strength), or None for no adapter."""


@dataclass(frozen=True)
class _Stacked:
    """An adapter of a stack: its matrices by input name, the file, and its largest rank."""

    path: Path
    tensors: Mapping[str, Array]
    rank: int

    @cached_property
    def largest(self) -> float:
        """The largest absolute value of an A."""
        return max((largest(t) for n, t in self.tensors.items() if n.endswith("A")), default=0.0)

    @property
    def limit(self) -> float:
        """What the largest value of an A may become."""
        return min((limit(tensor.dtype) for tensor in self.tensors.values()), default=math.inf)


@dataclass(frozen=True)
class Stack:
    """Canonical adapters that an engine can take together, with their strengths."""

    adapters: tuple[_Stacked, ...] = ()
    strengths: tuple[float, ...] = ()

    def with_strengths(self, strengths: Sequence[float]) -> Stack:
        """Return the same adapters at other strengths, one for each.

        Raises:
            AdapterError: their number is another, or one isn't finite or makes values overflow.
        """
        if len(strengths) != len(self.adapters):
            given, loaded = counted(len(strengths), "strength"), len(self.adapters)
            raise AdapterError(
                f"{given} for {counted(loaded, 'adapter')}",
                "give one for each adapter of the last swap, in its order",
            )
        for held, strength in zip(self.adapters, strengths, strict=True):
            if not math.isfinite(strength):
                raise AdapterError(f"{held.path}: strength {strength} isn't finite")
            if abs(strength) > 1 and held.largest * abs(strength) > held.limit:
                raise AdapterError(
                    f"{held.path}: strength {strength:g} makes its values overflow",
                    f"the largest is {held.limit / held.largest:.3g}",
                )
        return replace(self, strengths=tuple(float(strength) for strength in strengths))

    def write(self, spec: TensorSpec, values: Array) -> None:
        """Write an input's values: each adapter's into its slots, zeros everywhere else."""
        if spec.role == "strengths":
            values[:] = 0
            for start, held, strength in self._placed():
                values[start : start + held.rank] = strength
            return
        by_slot = values if RANK_AXIS[spec.role] == 0 else values.T
        end = 0
        for start, held, _ in self._placed():
            matrix = held.tensors.get(spec.name)
            if matrix is None:
                continue
            rows = matrix if RANK_AXIS[spec.role] == 0 else matrix.T
            by_slot[end:start] = 0
            end = start + len(rows)
            by_slot[start:end] = rows
        by_slot[end:] = 0

    def folded(self) -> dict[str, Array]:
        """Return one A [r, in] and B [out, r] in fp32 per module, with strengths folded into B.

        They are what is merged into weights; r is the sum of the ranks of that module.
        """
        parts: dict[str, list[Array]] = {}
        for held, strength in zip(self.adapters, self.strengths, strict=True):
            for name, tensor in held.tensors.items():
                factor = strength if name.endswith("B") else 1.0
                parts.setdefault(name, []).append(tensor.astype(np.float32) * np.float32(factor))
        return {name: np.concatenate(p, 0 if name[-1] == "A" else 1) for name, p in parts.items()}

    def _placed(self) -> list[tuple[int, _Stacked, float]]:
        """Return each adapter with its first slot and its strength."""
        placed, start = [], 0
        for held, strength in zip(self.adapters, self.strengths, strict=True):
            placed.append((start, held, strength))
            start += held.rank
        return placed


def split_strength(argument: str) -> tuple[str, float]:
    """Split FILE[:STRENGTH], 1 by default; a colon inside the path is fine.

    Raises:
        ValueError: what follows the last colon isn't a number; the error's text is that.
    """
    path, colon, strength = argument.rpartition(":")
    if not colon or not path or strength.endswith(".safetensors") or Path(argument).exists():
        return argument, 1.0
    try:
        return path, float(strength)
    except ValueError:
        raise ValueError(strength) from None


def list_adapters(adapter: AdapterArgument) -> list[tuple[Path, float]]:
    """Return files and strengths; a file alone has strength 1.

    Raises:
        EngineError: it isn't a path, nor pairs of a path and a number.
    """
    if adapter is None:
        return []
    if isinstance(adapter, (str, Path)):
        return [(Path(adapter), 1.0)]
    try:
        return [(Path(path), float(strength)) for path, strength in adapter]
    except (TypeError, ValueError):
        raise EngineError(
            "an adapter is a path, or a list of (path, strength)",
            'such as engine.swap([("a.safetensors", 0.9), ("b.safetensors", -0.3)])',
        ) from None


def read_stack(adapter: AdapterArgument, folder: Path, manifest: Manifest) -> Stack:
    """Read and check canonical adapters; nothing is returned unless all of them fit together.

    Raises:
        AdapterError: one isn't a canonical adapter for this engine, or their ranks are too many.
        EngineError: it isn't a path, nor pairs of a path and a number.
    """
    held = []
    files = list_adapters(adapter)
    for path, _ in files:
        tensors = read_adapter(path, folder, manifest)
        ranks = [tensor.shape[0] for name, tensor in tensors.items() if name.endswith(".lora_A")]
        held.append(_Stacked(path, tensors, max(ranks, default=0)))
    slots = _count_slots(manifest)
    ranks = [one.rank for one in held]
    if sum(ranks) > slots:
        raise AdapterError(
            f"ranks {' + '.join(map(str, ranks))} = {sum(ranks)}, the engine takes up to {slots}",
            f"build it with --max-rank {sum(ranks)}, or load fewer adapters",
        )
    return Stack(tuple(held), (1.0,) * len(held)).with_strengths([s for _, s in files])


def _count_slots(manifest: Manifest) -> int:
    rows = [spec.shape[0] for spec in manifest.adapter_inputs if spec.role == "lora_A"]
    return min((row for row in rows if isinstance(row, int)), default=0)
