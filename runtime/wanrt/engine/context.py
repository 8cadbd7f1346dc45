"""Contexts of split engines: what the prompt and the image alone decide, computed once for both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from wanrt.engine.feeds import check_names
from wanrt.engine.stack import Stack
from wanrt.errors import EngineError
from wanrt.manifest.schema import Manifest
from wanrt.storage.dtypes import Array

__all__ = ["Context", "Generations", "as_context", "check_split", "part_inputs"]


@dataclass(frozen=True, eq=False)
class Context:
    """What `prepare` made of a prompt and an image; forwards of the same engine take it.

    None is equal to another, whatever it holds.

    Args:
        values: by name what the denoise graph reads, in the backend's memory.
        nbytes: that they take there.
        seconds: that preparing took, with loading the context graph's weights where that was due.
        generation: of the adapters and strengths that it was prepared with.
        owner: the engine's own mark.
    """

    values: Mapping[str, Any]
    nbytes: int
    seconds: float
    generation: int
    owner: object


class Generations:
    """Counts the changes of adapters and strengths that make contexts stale."""

    def __init__(self, manifest: Manifest) -> None:
        context = manifest.graphs["context"].adapter_inputs if manifest.is_split else ()
        self._names = {spec.name for spec in context}
        self._has_own = manifest.mode == "merged"
        self.current = 0

    def change(self, before: Stack, after: Stack) -> None:
        """Begin another generation if a layer of the context graph computes something else."""
        if not self._names:
            return
        # a merged engine's own adapter is in it as long as no other is, at whatever strength
        same_base = not self._has_own or bool(before.adapters) == bool(after.adapters)
        effects = _effects(before, self._names), _effects(after, self._names)
        if not (same_base and _same(*effects)):
            self.current += 1

    def check(self, context: Context, owner: object) -> None:
        """Refuse a context of another engine, or one of earlier adapters or strengths.

        Raises:
            EngineError: it is one of those.
        """
        if context.owner is not owner:
            raise EngineError(
                "the context was prepared by another engine", "call prepare(...) of this one"
            )
        if context.generation != self.current:
            raise EngineError(
                "the context is stale: adapters or strengths of its layers have changed since",
                "call prepare(...) again; it takes one per distinct strength",
            )


def part_inputs(
    manifest: Manifest, inputs: Mapping[str, object]
) -> tuple[dict[str, object], dict[str, object]]:
    """Return what of a whole forward's inputs is the context graph's, and what is the forward's.

    Raises:
        EngineError: one is missing, unknown, or the adapter's.
    """
    data = [spec.name for spec in manifest.data_inputs]
    others = {spec.name for graph in manifest.graphs.values() for spec in graph.inputs} - {*data}
    check_names(inputs, data, others)
    own = {spec.name for spec in manifest.forward.inputs}
    return {n: inputs[n] for n in data if n not in own}, {n: inputs[n] for n in data if n in own}


def as_context(value: object) -> Context | None:
    """Return what a caller gave as `context`, which `prepare` must have made.

    Raises:
        EngineError: it is something else.
    """
    if value is None or isinstance(value, Context):
        return value
    raise EngineError(
        f"context is a {type(value).__name__}, not what prepare(...) returned",
        "context = engine.prepare(encoder_hidden_states=...)",
    )


def check_split(manifest: Manifest) -> None:
    """Refuse an engine without a context graph.

    Raises:
        EngineError: it is one.
    """
    if not manifest.is_split:
        raise EngineError(
            f"{manifest.name} has one graph, so there is no context to prepare",
            "build one that has two: wanexport build --split",
        )


_Effect = tuple[float, dict[str, Array]]


def _effects(stack: Stack, names: set[str]) -> list[_Effect]:
    """Return what adapters change of some layers, and by how much; at strength 0 none does."""
    found = []
    for held, strength in zip(stack.adapters, stack.strengths, strict=True):
        own = {name: held.tensors[name] for name in names.intersection(held.tensors)}
        if strength and own:
            found.append((strength, own))
    return found


def _same(before: list[_Effect], after: list[_Effect]) -> bool:
    return len(before) == len(after) and all(
        one == other
        and ours.keys() == theirs.keys()
        and all(np.array_equal(ours[name], theirs[name]) for name in ours)
        for (one, ours), (other, theirs) in zip(before, after, strict=True)
    )
