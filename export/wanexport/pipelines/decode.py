"""`python -m wanexport.pipelines.decode`: the frames of latents that a host wrote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanexport.errors import PipelineError
from wanexport.pipelines.program import Device, Model, find_model, run_command
from wanexport.storage.drafts import draft_folder, place_draft, sweep_drafts
from wanrt.terminal.screen import print_line

if TYPE_CHECKING:
    import numpy as np
    import torch

__all__ = ["decode", "decode_latents"]


def decode_latents(model: Path, latents: torch.Tensor, device: str = "cpu") -> np.ndarray:
    """Return the frames [B, F, H, W, 3] of latents [B, C, F, H, W], as diffusers' pipelines do.

    Raises:
        PipelineError: the latents aren't of the model's VAE.
    """
    import torch
    from diffusers import AutoencoderKLWan
    from diffusers.video_processor import VideoProcessor

    vae = AutoencoderKLWan.from_pretrained(
        model, subfolder="vae", dtype=torch.float32, local_files_only=True
    ).to(device)
    channels = vae.config.z_dim
    if latents.shape[1] != channels:
        raise PipelineError(
            f"the latents have {latents.shape[1]} channels, the VAE of {model} takes {channels}"
        )
    shape = (1, channels, 1, 1, 1)
    mean = torch.tensor(vae.config.latents_mean).view(shape).to(device)
    scale = 1.0 / torch.tensor(vae.config.latents_std).view(shape).to(device)
    with torch.inference_mode():
        video = vae.decode(latents.to(device) / scale + mean, return_dict=False)[0]
    processor = VideoProcessor(vae_scale_factor=vae.config.scale_factor_spatial)
    frames: np.ndarray = processor.postprocess_video(video, output_type="np")
    return frames


def decode(
    model: Model,
    latents: Annotated[
        Path, typer.Argument(metavar="LATENTS", help="File that a host wrote, .safetensors.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "-o", "--output", metavar="FOLDER", help="Folder to make, with a PNG of every frame."
        ),
    ],
    device: Device = "cpu",
) -> None:
    """Make frames of the latents that a host wrote, by the model's VAE.

    A batch of several videos has a folder of each in the folder.
    """
    from PIL import Image

    from wanexport.pipelines.video_file import read_latents

    folder = find_model(model)
    values = read_latents(latents)
    if os.path.lexists(output):
        raise PipelineError(f"{output} exists", "name another folder")
    if not output.parent.is_dir():
        raise PipelineError(f"{output.parent} isn't a folder", f"mkdir -p {output.parent}")
    videos = (decode_latents(folder, values, device) * 255).round().astype("uint8")
    sweep_drafts(output.parent)
    try:
        with draft_folder(output.parent, output.name) as draft:
            for number, frames in enumerate(videos):
                place = draft if len(videos) == 1 else draft / f"{number}"
                place.mkdir(exist_ok=True)
                for at, frame in enumerate(frames):
                    Image.fromarray(frame).save(place / f"{at:04d}.png")
            if not place_draft(draft, output, replace=False):
                raise PipelineError(f"{output} exists", "name another folder")
    except OSError as error:
        raise PipelineError(f"{output} can't be written: {error.strerror or error}") from None
    print_line(f"saved {videos.shape[1]} frames in {output}")


if __name__ == "__main__":
    run_command(decode)
