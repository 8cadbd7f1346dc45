"""Contexts of a split engine: prepared once per prompt and image, by what these hold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wanrt.engine.context import Context
from wanrt.engine.engine import Engine
from wanrt.storage.dtypes import Array

__all__ = ["Contexts"]

PER_FORWARD = 2  # with guidance a step alternates between two prompts

Feed = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Held:
    """A context and copies of the inputs that it was made of."""

    inputs: Feed
    context: Context

    def is_of(self, inputs: Feed) -> bool:
        """Compare values: a caller may write other ones into the same memory."""
        return all(
            value.device == inputs[name].device and torch.equal(value, inputs[name])
            for name, value in self.inputs.items()
        )


class Contexts:
    """Runs a split engine, with a context for every prompt in use.

    A context takes hundreds of megabytes at 14B, so that no more are held than a step uses: the
    one that was used longest ago makes way before another is made.

    Args:
        engine: a split engine.
    """

    def __init__(self, engine: Engine) -> None:
        graphs = engine.manifest.graphs
        self._engine = engine
        self._own = {spec.name for spec in graphs["context"].inputs if spec.role == "data"}
        self._read = {spec.name for spec in graphs["denoise"].inputs if spec.role == "data"}
        self._held: list[_Held] = []
        self._revision = 0

    def forward(self, feed: Feed, pieces: int, revision: int) -> dict[str, Array]:
        """Run a forward on a context that is there, or prepare one.

        Args:
            feed: the inputs of both graphs.
            pieces: how many forwards a call takes; each has a prompt of its own.
            revision: another number after every change of adapters or strengths.
        """
        if revision != self._revision:
            self._held.clear()
            self._revision = revision
        context = self._find({name: feed[name] for name in self._own}, PER_FORWARD * pieces)
        own = {name: value for name, value in feed.items() if name in self._read}
        return self._engine.forward(context=context, **own)

    def _find(self, inputs: Feed, most: int) -> Context:
        for held in self._held:
            if held.is_of(inputs):
                self._held.remove(held)
                self._held.append(held)
                return held.context
        del self._held[: max(0, len(self._held) - most + 1)]
        copies = {name: value.clone() for name, value in inputs.items()}
        self._held.append(_Held(copies, self._engine.prepare(**inputs)))
        return self._held[-1].context
