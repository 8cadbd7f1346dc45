"""A sampler's steps as sums: every sample is linear in the first one and in the model's outputs."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from wanexport.errors import PipelineError

__all__ = ["Scheduler", "check_coefficients", "work_out_coefficients"]

TOLERANCE = 1e-5


class Scheduler(Protocol):
    """What is used of diffusers' schedulers."""

    def step(
        self, model_output: Tensor, timestep: Tensor, sample: Tensor, *, return_dict: bool
    ) -> tuple[Tensor, ...]:
        """Return the next sample."""


def work_out_coefficients(scheduler: Scheduler, timesteps: Sequence[Tensor]) -> Tensor:
    """Return the coefficients [S, S + 1] in fp64: row i makes sample i + 1.

    The scheduler itself is run on the first sample and the S outputs as unit vectors, so that what
    it returns are the coefficients. x_(i+1) = c[i, 0] x_0 + sum over j <= i of c[i, j + 1] v_j.

    Args:
        scheduler: one whose timesteps are set and that hasn't made a step; it isn't changed.
        timesteps: what its steps are called with.
    """
    scheduler = copy.deepcopy(scheduler)
    units = torch.eye(len(timesteps) + 1, dtype=torch.float64)
    sample = units[:1]
    rows = []
    for i, timestep in enumerate(timesteps):
        output = units[i + 1 : i + 2]
        sample = scheduler.step(output, timestep, sample, return_dict=False)[0].double()
        rows.append(sample[0])
    return torch.stack(rows)


def check_coefficients(coefficients: Tensor, samples: Tensor, outputs: Tensor, name: str) -> None:
    """Compare what coefficients say with what a scheduler did to random values.

    Args:
        coefficients: [S, S + 1].
        samples: [S + 1, N], from the first one to the result.
        outputs: [S, N], what the model returned.
        name: the scheduler's.

    Raises:
        PipelineError: the sampler's steps aren't linear, or aren't the same every time.
    """
    given = torch.cat([samples[:1], outputs]).double()
    found = coefficients @ given
    error = (found - samples[1:].double()).norm(dim=1) / samples[1:].double().norm(dim=1)
    if not bool((error < TOLERANCE).all()):
        raise PipelineError(
            f"{name}: its steps aren't the same sums of samples and outputs every time "
            f"(off by {float(error.max()):.1e})",
            "use UniPCMultistepScheduler or FlowMatchEulerDiscreteScheduler without noise or "
            "thresholds",
        )
