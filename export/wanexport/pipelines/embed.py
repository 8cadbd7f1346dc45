"""`python -m wanexport.pipelines.embed`: all of a video but its forwards, in one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wanexport.errors import PipelineError, UsageError
from wanexport.pipelines.program import Device, Model, find_model, run_command
from wanrt.manifest.read import read_manifest
from wanrt.manifest.schema import Manifest
from wanrt.storage.files import check_writable
from wanrt.terminal.screen import print_line

if TYPE_CHECKING:
    import torch

__all__ = ["Request", "embed", "make_video_file"]

KIND = rb".{8}\{\"__metadata__\""  # how the files that are written here begin
TextDtype = Literal["bf16", "fp16", "fp32"]
Sampler = Literal["unipc", "euler"]


@dataclass(frozen=True)
class Request:
    """What video a file is for.

    Args:
        model: folder of a diffusers pipeline; its transformer isn't read.
        engines: the engine folder, or both of a Wan2.2 pair.
        call: what the pipeline is called with: prompt, image, steps and the like.
        size: width, height and frames; None takes the engine's first.
        sampler: which one; None is the model's own.
        flow_shift: of the sampler; None is the model's own.
        text_dtype: what the text encoder computes in.
        device: of torch.
    """

    model: Path
    engines: tuple[Path, ...]
    call: dict[str, Any]
    size: tuple[int | None, int | None, int | None] = (None, None, None)
    sampler: Sampler | None = None
    flow_shift: float | None = None
    text_dtype: TextDtype = "bf16"
    device: str = "cpu"


def make_video_file(request: Request, output: Path) -> int:
    """Write the file of a video, and return its number of steps.

    Raises:
        PipelineError: model and engines don't go together, or the sampler isn't linear.
        WanrtError: an engine.json can't be read.
    """
    from wanexport.pipelines.recording import Recorder
    from wanexport.pipelines.transformer import EngineTransformer
    from wanexport.pipelines.video_file import write_video

    manifests = _order([(folder, read_manifest(folder)) for folder in request.engines])
    recorder = Recorder()
    names = ("transformer", "transformer_2")
    stands = {
        name: EngineTransformer(folder, engine=recorder.make_engine(manifest, at))
        for at, (name, (folder, manifest)) in enumerate(zip(names, manifests, strict=False))
    }
    pipe = _load(request, stands)
    manifest = manifests[0][1]
    workload = next(iter(manifest.workloads.values()))
    known = (workload.width, workload.height, workload.frames)
    size = tuple(asked or own for asked, own in zip(request.size, known, strict=True))
    width, height, frames = size
    with recorder.watching(pipe):
        result: torch.Tensor = pipe(
            **request.call, width=width, height=height, num_frames=frames, output_type="latent"
        ).frames
    video = recorder.finish(result)
    write_video(output, video, manifest, (width, height, frames))
    return len(video.timesteps)


def _order(engines: Sequence[tuple[Path, Manifest]]) -> list[tuple[Path, Manifest]]:
    """Return the engine, or the high-noise one before the low-noise one."""
    if len(engines) == 1:
        return list(engines)
    by_expert = {manifest.expert: (folder, manifest) for folder, manifest in engines}
    if len(engines) != 2 or by_expert.keys() != {"high", "low"}:
        raise UsageError(
            "--engine takes one engine, or both experts of a Wan2.2 model",
            "build them: wanexport build --expert both",
        )
    return [by_expert["high"], by_expert["low"]]


def _load(request: Request, stands: dict[str, Any]) -> Any:
    """Load a pipeline whose transformers are given; UniPC or Euler where that is asked."""
    import torch
    from diffusers import (
        DiffusionPipeline,
        FlowMatchEulerDiscreteScheduler,
        UniPCMultistepScheduler,
    )

    from wanexport.storage.dtypes import torch_dtype

    dtypes = {"default": torch.float32, "text_encoder": torch_dtype(request.text_dtype)}
    index = DiffusionPipeline.load_config(request.model)
    pair = (index.get("transformer_2") or [None])[0] is not None
    if pair != (len(stands) == 2):
        raise PipelineError(
            f"{request.model} has {'two transformers' if pair else 'one transformer'}, and "
            f"{len(stands)} engine{'s are' if len(stands) > 1 else ' is'} given",
            "name an engine of each: --engine HIGH --engine LOW" if pair else "name one",
        )
    pipe = DiffusionPipeline.from_pretrained(
        request.model, dtype=dtypes, local_files_only=True, **stands
    )
    if request.sampler == "euler":
        shift = request.flow_shift or pipe.scheduler.config.get("flow_shift") or 1.0
        pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    elif request.sampler == "unipc" or request.flow_shift is not None:
        changed = {} if request.flow_shift is None else {"flow_shift": request.flow_shift}
        pipe.scheduler = UniPCMultistepScheduler.from_config(
            pipe.scheduler.config,
            prediction_type="flow_prediction",
            use_flow_sigmas=True,
            **changed,
        )
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(request.device)


def embed(
    model: Model,
    engine: Annotated[
        list[Path],
        typer.Option(
            metavar="ENGINE",
            help="Engine folder that will run the video; of a Wan2.2 pair repeat it for both.",
        ),
    ],
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="What the video shows.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="File to write, .safetensors.")
    ],
    negative_prompt: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="What the video must not show [default: nothing]."),
    ] = None,
    image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="First frame, for models that take one.")
    ] = None,
    last_image: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Last frame, for models that take one.")
    ] = None,
    steps: Annotated[int, typer.Option(metavar="N", min=1, help="Steps of the sampler.")] = 50,
    guidance: Annotated[
        float,
        typer.Option(metavar="X", help="Scale of classifier-free guidance; 1 runs without it."),
    ] = 5.0,
    guidance_2: Annotated[
        float | None,
        typer.Option(
            "--guidance-2",
            metavar="X",
            help="The same for a pair's low-noise engine [default: --guidance].",
        ),
    ] = None,
    sampler: Annotated[
        Sampler | None, typer.Option(help="Sampler to use [default: the model's own].")
    ] = None,
    flow_shift: Annotated[
        float | None,
        typer.Option(metavar="X", help="Shift of the sampler's noise [default: the model's own]."),
    ] = None,
    width: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Width [default: the engine's].")
    ] = None,
    height: Annotated[
        int | None, typer.Option(metavar="PIXELS", help="Height [default: the engine's].")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(metavar="N", help="Frames, 4k + 1 [default: the engine's].")
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Seed of the noise.")] = 0,
    text_dtype: Annotated[
        TextDtype, typer.Option(help="Data type of the text encoder; the others are in fp32.")
    ] = "bf16",
    device: Device = "cpu",
    force: Annotated[bool, typer.Option("--force", help="Replace any file there is.")] = False,
) -> None:
    """Write all that a video needs but the engine's forwards into one file.

    docs/video-file.md specifies it; a host runs the steps, and its latents become frames by
    `python -m wanexport.pipelines.decode`.
    """
    import torch
    from PIL import Image

    check_writable(output, [p for p in (image, last_image) if p], KIND, force=force)
    images = {"image": image, "last_image": last_image}
    call: dict[str, Any] = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "generator": torch.Generator().manual_seed(seed),
    }
    if guidance_2 is not None:
        call["guidance_scale_2"] = guidance_2
    for name, path in images.items():
        if path is not None:
            try:
                call[name] = Image.open(path).convert("RGB")
            except OSError as error:
                raise PipelineError(f"{path} can't be read as an image: {error}") from None
    request = Request(
        find_model(model),
        tuple(engine),
        call,
        (width, height, frames),
        sampler,
        flow_shift,
        text_dtype,
        device,
    )
    count = make_video_file(request, output)
    print_line(f"saved {output} ({count} steps)")


if __name__ == "__main__":
    run_command(embed)
