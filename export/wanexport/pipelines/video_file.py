"""The file of a video, and the latents that a host gives back, as docs/video-file.md says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from wanexport.errors import PipelineError
from wanexport.storage.dtypes import STORED
from wanexport.storage.tensor_file import StoredTensor, open_safetensors, write_safetensors
from wanrt.manifest.schema import Manifest

__all__ = ["Video", "read_latents", "write_video"]

VIDEO, LATENTS, VERSION = "wanexport-video", "wanexport-latents", "1"
WORDS = {torch_name: stored for stored, (_, torch_name) in STORED.items()}


@dataclass(frozen=True)
class Video:
    """All that a host needs to run a sampler's steps on an engine.

    Args:
        latents: [B, C, F, H, W], what the first step starts from.
        timesteps: [S].
        coefficients: [S, S + 1] of the sampler.
        guidance: [S], if there is classifier-free guidance.
        condition: [B, D, F, H, W] behind the latents, for some models.
        positive: inputs of the forward for the prompt, by the engine's names.
        negative: the same for the negative prompt.
        shared: inputs of both.
        high_steps: of a Wan2.2 pair, how many steps are the high-noise engine's.
        scheduler: the sampler's name.
    """

    latents: Tensor
    timesteps: Tensor
    coefficients: Tensor
    guidance: Tensor | None
    condition: Tensor | None
    positive: Mapping[str, Tensor]
    negative: Mapping[str, Tensor]
    shared: Mapping[str, Tensor]
    high_steps: int | None
    scheduler: str


def write_video(path: Path, video: Video, manifest: Manifest, size: tuple[int, int, int]) -> None:
    """Write the file of a video.

    Args:
        path: where; the file appears whole or not at all.
        video: what a host needs.
        manifest: the engine's.
        size: width, height and frames in pixels.

    Raises:
        PipelineError: it can't be written.
    """
    tensors = {
        "latents": video.latents.float(),
        "timesteps": video.timesteps.float(),
        "coefficients": video.coefficients.float(),
        "guidance": None if video.guidance is None else video.guidance.float(),
        "condition": video.condition,
        **{f"positive.{name}": value for name, value in video.positive.items()},
        **{f"negative.{name}": value for name, value in video.negative.items()},
        **video.shared,
    }
    held = {name: value.cpu() for name, value in tensors.items() if value is not None}
    width, height, frames = size
    metadata = {
        "format": VIDEO,
        "version": VERSION,
        "width": str(width),
        "height": str(height),
        "frames": str(frames),
        "batch": str(len(video.latents)),
        "dtype": manifest.dtype,
        "compared_by": json.dumps(manifest.compared_by, sort_keys=True),
        "scheduler": video.scheduler,
    }
    if video.high_steps is not None:
        low = len(video.timesteps) - video.high_steps
        metadata["experts"] = f"high:{video.high_steps},low:{low}"
    specs = [
        StoredTensor(name, WORDS[str(value.dtype).removeprefix("torch.")], tuple(value.shape))
        for name, value in held.items()
    ]
    try:
        write_safetensors(path, specs, held.values(), metadata)
    except OSError as error:
        raise PipelineError(f"{path} can't be written: {error.strerror or error}") from None


def read_latents(path: Path) -> Tensor:
    """Return the latents [B, C, F, H, W] that a host wrote.

    Raises:
        PipelineError: it isn't such a file.
    """
    file = open_safetensors(path, PipelineError)
    if file.metadata.get("format") != LATENTS:
        raise PipelineError(
            f"{path} doesn't hold a video's latents",
            f"its metadata should say so (format: {LATENTS}); see docs/video-file.md",
        )
    version = file.metadata.get("version")
    if version != VERSION:
        raise PipelineError(
            f"{path} has version {version}, this wanexport reads {VERSION}",
            "install a newer wanexport",
        )
    stored = file.tensors.get("latents")
    if stored is None or stored.dtype != "F32" or len(stored.shape) != 5:
        raise PipelineError(f"{path} has no tensor latents, F32 [B, C, F, H, W]")
    latents = stored.read()
    if not bool(torch.isfinite(latents).all()):
        raise PipelineError(f"{path}: its latents aren't finite", "the engine's dtype overflowed")
    return latents
