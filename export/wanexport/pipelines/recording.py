"""A pipeline run without its transformer: what the model would be asked, and what follows from it.

The pipeline's own code makes embeddings, conditions and noise and calls its scheduler; in the place
of an engine stands one that notes its inputs and returns noise, by which the scheduler's
coefficients are checked.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from wanexport.errors import PipelineError
from wanexport.pipelines.sampler import Scheduler, check_coefficients, work_out_coefficients
from wanexport.pipelines.video_file import Video
from wanrt.engine.engine import Engine
from wanrt.manifest.schema import Manifest
from wanrt.storage.dtypes import Array

__all__ = ["Recorder"]

WATCHED = 4096
"""How many values of every sample and output are looked at: steps treat all of them alike."""
CHANNELS_AXIS = 1
DIGITS = 5  # a scale found by least squares has a rounding error of its own


@dataclass
class _Call:
    """A forward: which model was asked, its inputs but for the latents, and what it returned."""

    model: int
    inputs: dict[str, Tensor]
    returned: Array  # the watched values


@dataclass
class _Step:
    """A step of the scheduler: the calls before it, and watched values of what it was given."""

    calls: list[_Call]
    timestep: Tensor
    output: Tensor
    sample: Tensor


@dataclass
class Recorder:
    """Notes a pipeline's run; hand its engines to `EngineTransformer` and run within `watching`."""

    calls: list[_Call] = field(default_factory=list)
    steps: list[_Step] = field(default_factory=list)
    latents: Tensor | None = None
    condition: Tensor | None = None
    fresh: Scheduler | None = None
    is_pair: bool = False

    def make_engine(self, manifest: Manifest, model: int = 0) -> Engine:
        """Return what stands in the place of an engine.

        Args:
            manifest: the engine's.
            model: 0, or 1 for the second of a pair.
        """
        return cast("Engine", _Stand(manifest, model, self))

    @contextmanager
    def watching(self, pipe: Any) -> Iterator[None]:
        """Watch the steps of a pipeline's scheduler."""
        original = pipe.scheduler
        scheduler = copy.deepcopy(original)
        step = scheduler.step

        def watched(output: Tensor, timestep: Tensor, sample: Tensor, **options: bool) -> object:
            if self.fresh is None:
                self.latents = sample.detach().clone()
                self.fresh = copy.deepcopy(scheduler)
                del self.fresh.step  # the instance's, which is this one
            taken = _watch(output), _watch(sample)
            self.steps.append(_Step(self.calls, timestep.cpu(), *taken))
            self.calls = []
            return step(output, timestep, sample, **options)

        scheduler.step = watched
        pipe.scheduler = scheduler
        try:
            yield
        finally:
            pipe.scheduler = original

    def finish(self, result: Tensor) -> Video:
        """Return what a host needs to do the same with an engine.

        Args:
            result: the latents that the pipeline returned.

        Raises:
            PipelineError: its steps can't be described so: the sampler isn't linear, inputs change
                between steps, or a batch was run in pieces.
        """
        if self.fresh is None or self.latents is None:
            raise PipelineError("the pipeline made no steps")
        name = type(self.fresh).__name__
        timesteps = [step.timestep for step in self.steps]
        coefficients = work_out_coefficients(self.fresh, timesteps)
        outputs = torch.stack([step.output for step in self.steps])
        samples = torch.stack([*(step.sample for step in self.steps), _watch(result)])
        check_coefficients(coefficients, samples, outputs, name)
        first = self.steps[0].calls
        self._check_calls(len(first))
        positive, *negative = [call.inputs for call in first]
        shared = _take_shared(positive, negative[0]) if negative else {}
        models = [step.calls[0].model for step in self.steps]
        return Video(
            latents=self.latents.float().cpu(),
            timesteps=torch.tensor([float(timestep) for timestep in timesteps]),
            coefficients=coefficients,
            guidance=torch.tensor([_find_guidance(step) for step in self.steps])
            if negative
            else None,
            condition=self.condition,
            positive={n: v for n, v in positive.items() if n not in shared},
            negative={n: v for n, v in negative[0].items() if n not in shared} if negative else {},
            shared=shared,
            high_steps=models.count(0) if self.is_pair else None,
            scheduler=name,
        )

    def _check_calls(self, number: int) -> None:
        """Check that every step asks as the first one does, and one model after the other."""
        first = self.steps[0].calls
        if number not in (1, 2):
            raise PipelineError(
                f"the pipeline calls its transformer {number} times a step",
                "use the engine's batch, and a guidance that needs one or two forwards",
            )
        models = [call.model for step in self.steps for call in step.calls]
        if models != sorted(models):
            raise PipelineError("the pipeline goes back to the first of its two transformers")
        for step in self.steps:
            alike = len(step.calls) == number and all(
                _are_equal(a.inputs, b.inputs) for a, b in zip(step.calls, first, strict=True)
            )
            if not alike:
                raise PipelineError("the pipeline changes its prompt or guidance between steps")


class _Stand:
    """Notes what an engine is asked, and returns noise."""

    def __init__(self, manifest: Manifest, model: int, recorder: Recorder) -> None:
        self.manifest = manifest
        self._model = model
        self._recorder = recorder
        self._random = np.random.default_rng(model)
        if model:
            recorder.is_pair = True

    def prepare(self, /, **inputs: Tensor) -> dict[str, Tensor]:
        """Return the inputs as they are: what a split engine makes of them isn't for the file."""
        return inputs

    def forward(
        self, /, *, context: Mapping[str, Tensor] | None = None, **inputs: Tensor
    ) -> dict[str, Array]:
        """Return values that aren't alike for any two calls."""
        inputs |= context or {}
        latents = inputs["hidden_states"]
        batch, channels, *size = latents.shape
        kept = int(self.manifest.forward.outputs[0].shape[CHANNELS_AXIS])
        if self._recorder.condition is None and channels > kept:
            self._recorder.condition = latents[:, kept:].clone()
        noise = self._random.standard_normal(WATCHED, dtype=np.float32)
        others = {n: v for n, v in inputs.items() if n not in ("hidden_states", "timestep")}
        sample = np.resize(noise, (batch, kept, *size))
        self._recorder.calls.append(_Call(self._model, others, sample.reshape(-1)[:WATCHED]))
        return {"sample": sample}

    def close(self) -> None:
        """Do nothing: nothing was loaded."""


def _watch(tensor: Tensor) -> Tensor:
    return tensor.detach().float().flatten()[:WATCHED].cpu().clone()


def _find_guidance(step: _Step) -> float:
    """Return g of v = n + g (p - n); the pipeline says it in another place for each model."""
    positive, negative = (torch.from_numpy(call.returned).double() for call in step.calls)
    along = positive - negative
    away = step.output.double() - negative
    scale = float(along @ away / (along @ along))
    if float((away - scale * along).norm() / along.norm()) > 10**-DIGITS:
        raise PipelineError("the pipeline guides by something else than classifier-free guidance")
    return round(scale, DIGITS)


def _are_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(
        value is other[name] or torch.equal(value, other[name]) for name, value in one.items()
    )


def _take_shared(
    positive: Mapping[str, Tensor], negative: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the inputs that both forwards have alike, texts apart."""
    return {
        name: value
        for name, value in positive.items()
        if name != "encoder_hidden_states" and torch.equal(value, negative[name])
    }
