"""Make a video of an image and a sentence, with an engine in the place of the transformer.

    python docs/examples/image_to_video.py MODEL ENGINE first.png "a cat runs" -o cat.webp

MODEL is a diffusers pipeline, ENGINE what `wanexport build` made of its transformer. On a swappable
engine `--lora FILE:STRENGTH`, which may be repeated, loads LoRAs of any dialect.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image

from wanexport.lora.find import parse_lora
from wanexport.pipelines import EngineTransformer
from wanrt.manifest.read import read_manifest


def main(argv: Sequence[str] | None = None) -> None:
    """Read the command's arguments, and make the video."""
    parser = argparse.ArgumentParser(description="Make a video of an image and a sentence.")
    parser.add_argument("model", help="folder or repository of a diffusers pipeline")
    parser.add_argument("engine", type=Path, help="folder of an engine of its transformer")
    parser.add_argument("image", type=Path, help="the first frame")
    parser.add_argument("prompt", help="what happens in the video")
    parser.add_argument("-o", "--output", type=Path, required=True, help=".webp or .gif")
    parser.add_argument("--negative-prompt", default="", help="what doesn't")
    parser.add_argument("--lora", action="append", default=[], metavar="FILE:STRENGTH")
    parser.add_argument("--steps", type=int, default=40, help="steps of the sampler")
    parser.add_argument("--guidance", type=float, default=5.0, help="1: without guidance")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--text-dtype", default="bfloat16", help="of the text encoder")
    parser.add_argument("--offload", action="store_true", help="keep one model at a time on it")
    arguments = parser.parse_args(argv)

    transformer = EngineTransformer(arguments.engine)
    pipe = WanImageToVideoPipeline.from_pretrained(
        arguments.model,
        transformer=transformer,
        dtype={"default": torch.float32, "text_encoder": getattr(torch, arguments.text_dtype)},
    )
    if arguments.offload:
        pipe.enable_model_cpu_offload()
    elif torch.cuda.is_available():
        pipe.to("cuda")
    loras = [parse_lora(argument) for argument in arguments.lora]
    for lora in loras:
        transformer.load_lora(lora.path, adapter_name=Path(lora.path).stem)
    if loras:
        pipe.set_adapters([Path(one.path).stem for one in loras], [one.strength for one in loras])
    size = next(iter(read_manifest(arguments.engine).workloads.values()))
    image = Image.open(arguments.image).convert("RGB").resize((size.width, size.height))
    video = pipe(
        image=image,
        prompt=arguments.prompt,
        negative_prompt=arguments.negative_prompt,
        width=size.width,
        height=size.height,
        num_frames=size.frames,
        num_inference_steps=arguments.steps,
        guidance_scale=arguments.guidance,
        generator=torch.Generator().manual_seed(arguments.seed),
        output_type="pil",
    )
    first, *others = video.frames[0]
    first.save(arguments.output, save_all=True, append_images=others, duration=62, loop=0)
    transformer.close()
    print(f"saved {arguments.output} ({1 + len(others)} frames)")


if __name__ == "__main__":
    main()
