"""How far the videos of an engine are from those of its full fine-tune, from the same noise."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from wanexport.errors import PipelineError

__all__ = ["VideoDistance", "compare_videos"]


@dataclass(frozen=True)
class VideoDistance:
    """How far one video is from the full fine-tune's.

    Args:
        name: whose it is.
        seed: of the noise that both began with.
        latents: |latents - full fine-tune's| / |full fine-tune's|, L2, after the last step.
        psnr: of all frames together in dB, values 0 to 1; infinite where they are equal.
    """

    name: str
    seed: int
    latents: float
    psnr: float


def compare_videos(
    pipe: Any,
    full: Any,
    others: Mapping[str, Any],
    seeds: Sequence[int],
    call: Mapping[str, Any],
) -> list[VideoDistance]:
    """Make the same video with each transformer and compare it with the full fine-tune's.

    The pipeline runs `call` as many times as there are seeds and transformers, and has its own
    transformer back afterwards.

    Args:
        pipe: a Wan pipeline of diffusers; one model per pipeline, so not Wan2.2's pair.
        full: the full fine-tune: an `EngineTransformer`, or diffusers' own transformer.
        others: by name, what is compared; adapters are loaded, with their strengths, beforehand.
        seeds: of the noise, one video each.
        call: what the pipeline is called with: prompt, image, sizes, steps.

    Raises:
        PipelineError: the pipeline has two transformers, or the call says what this chooses.
    """
    if getattr(pipe, "transformer_2", None) is not None:
        raise PipelineError(
            "the pipeline has two transformers, and one is compared at a time",
            "compare the experts' engines by what `wanexport build` records: keeps",
        )
    chosen = {"generator", "output_type", "return_dict", "callback_on_step_end"} & call.keys()
    if chosen:
        names = ", ".join(sorted(chosen))
        raise PipelineError(f"{names} is chosen by the comparison", "leave it out of the call")
    own = pipe.transformer
    found = []
    try:
        for seed in seeds:
            latents, frames = _make_video(pipe, full, seed, call)
            for name, transformer in others.items():
                its_latents, its_frames = _make_video(pipe, transformer, seed, call)
                off = float((its_latents - latents).norm() / latents.norm())
                found.append(VideoDistance(name, seed, off, _psnr(its_frames, frames)))
    finally:
        pipe.transformer = own
    return found


def _make_video(
    pipe: Any, transformer: Any, seed: int, call: Mapping[str, Any]
) -> tuple[Tensor, Tensor]:
    """Return the latents after the last step, and the frames [B, F, C, H, W]; both fp64."""
    last: dict[str, Tensor] = {}

    def keep(_pipe: object, _step: int, _time: object, values: dict[str, Tensor]) -> dict[str, Any]:
        last.update(values)
        return {}

    pipe.transformer = transformer
    generator = torch.Generator().manual_seed(seed)
    frames = pipe(**call, generator=generator, output_type="pt", callback_on_step_end=keep).frames
    return last["latents"].double().cpu(), frames.double().cpu()


def _psnr(a: Tensor, b: Tensor) -> float:
    mean = float((a - b).square().mean())
    return math.inf if mean == 0 else -10 * math.log10(mean)
