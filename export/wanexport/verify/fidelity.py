"""How much of a full fine-tune's effect an engine keeps, from outputs on the twin's inputs.

`keeps` is 1 - |engine - full fine-tune| / |full fine-tune - base|, all norms over every element of
the outputs at all timesteps together. 1: the engine's outputs are the full fine-tune's. 0: they are
as far from them as the base's. Below 0: further.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wanexport.graph.trace import GraphSpec
from wanexport.verify.twin import WIDE, twin_inputs
from wanrt.manifest.origin import Fidelity

__all__ = ["Effect", "inputs_at", "timesteps_of", "timesteps_within"]

PARTS = (0.9, 0.5, 0.1)
LEAST_EFFECT = 3e-6
"""Of the output: what rounding may leave in fp32; an effect must exceed it."""


def timesteps_within(low: float, high: float) -> tuple[float, ...]:
    """Return 900, 500 and 100 of 0 to 1000, or as much of an expert's part of the schedule."""
    return tuple(round(low + part * (high - low), 3) for part in PARTS)


def inputs_at(spec: GraphSpec, timesteps: Sequence[float]) -> list[dict[str, Tensor]]:
    """Return the twin's inputs, in fp32, once per timestep; of a wide model once.

    The samples of a batch have timesteps in turn, so that each is asked for all of them.
    """
    inputs = twin_inputs(spec)
    batch, count = len(inputs["timestep"]), len(timesteps)
    turns = 1 if spec.arch.width > WIDE else count
    return [
        inputs | {"timestep": torch.tensor([timesteps[(turn + i) % count] for i in range(batch)])}
        for turn in range(turns)
    ]


@dataclass(frozen=True)
class Effect:
    """What a full fine-tune changes about the outputs.

    Args:
        finetuned: its outputs [B, C, F, H, W] in fp32, by `inputs_at`'s inputs.
        base: the base's.
        timesteps: those of the inputs.
        files: the SHA-256 of each file that holds the fine-tune.
    """

    finetuned: Sequence[Tensor]
    base: Sequence[Tensor]
    timesteps: tuple[float, ...]
    files: tuple[str, ...]

    @property
    def exists(self) -> bool:
        """Whether it is more than rounding."""
        return self._size > LEAST_EFFECT * _norm(self.finetuned)

    @property
    def _size(self) -> float:
        return _distance(self.finetuned, self.base)

    def measure(self, outputs: Sequence[Tensor]) -> Fidelity:
        """Return how much of the effect an engine's outputs keep; there has to be one."""
        lost = _distance(outputs, self.finetuned)
        return Fidelity(
            keeps=(1 - lost / self._size,), timesteps=self.timesteps, finetuned=self.files
        )


def timesteps_of(inputs: Sequence[Mapping[str, Tensor]]) -> tuple[float, ...]:
    """Return the timesteps that any sample of the inputs has, in their order."""
    return tuple(dict.fromkeys(t for one in inputs for t in one["timestep"].tolist()))


def _distance(a: Sequence[Tensor], b: Sequence[Tensor]) -> float:
    return _norm([x.double() - y.double() for x, y in zip(a, b, strict=True)])


def _norm(values: Sequence[Tensor]) -> float:
    """Return the L2 norm over all elements of all tensors, in fp64."""
    return float(torch.stack([value.double().norm() for value in values]).norm())
