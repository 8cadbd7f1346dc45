"""diffusers' Wan pipelines with tiny random components, as diffusers' own tests make them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVideoToVideoPipeline,
)
from PIL import Image
from safetensors.torch import save_file
from studies import I2V, SIZE, T2V
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    CLIPVisionConfig,
    CLIPVisionModel,
    PreTrainedTokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)

try:
    from transformers import CLIPImageProcessorPil
except ImportError:  # before transformers 5.5 the one without torchvision had the plain name
    from transformers import CLIPImageProcessor as CLIPImageProcessorPil  # type: ignore[assignment]

from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.model.config import Architecture
from wanexport.model.names import module_shapes

WORDS = ["a", "cat", "dog", "runs", "sits", "in", "on", "the", "snow", "grass", "blurred", "dark"]
CALL = {
    "prompt": "a cat runs",
    "negative_prompt": "blurred",
    "width": SIZE.width,
    "height": SIZE.height,
    "num_frames": SIZE.frames,
    "num_inference_steps": 3,
    "guidance_scale": 4.0,
    "output_type": "latent",
}
"""What a pipeline is called with, unless a test says otherwise."""


def make_tokenizer() -> Any:
    """Return a tokenizer of a dozen words that ends a prompt as T5's does."""
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    make: Any = PreTrainedTokenizerFast  # transformers is half typed
    return make(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def make_components(arch: Architecture = I2V) -> dict[str, Any]:
    """Return everything but the transformer, with seeded weights."""
    torch.manual_seed(0)
    parts: dict[str, Any] = {
        "tokenizer": make_tokenizer(),
        "text_encoder": UMT5EncoderModel(
            UMT5Config(
                vocab_size=64, d_model=arch.text_dim, d_kv=16, d_ff=64, num_layers=1, num_heads=2
            )
        ),
        "vae": AutoencoderKLWan(
            base_dim=3,
            z_dim=16,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            temperal_downsample=[False, True, True],
        ),
        "scheduler": UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    }
    if arch.image_dim is not None:
        parts["image_encoder"] = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=arch.image_dim,
                intermediate_size=40,
                num_hidden_layers=2,
                num_attention_heads=2,
                image_size=224,
                patch_size=14,
            )
        )
        parts["image_processor"] = CLIPImageProcessorPil()
    for part in parts.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    return parts


def make_transformer(folder: Path, arch: Architecture = I2V, seed: int = 0) -> Any:
    """Write a checkpoint, unless it is there, and return diffusers' own model of it."""
    if not folder.exists():
        write_checkpoint(folder, arch, "fp32", seed)
    return WanTransformer3DModel.from_pretrained(folder).eval()


def make_pipeline(transformer: Any, arch: Architecture = I2V, **others: Any) -> Any:
    """Return the pipeline of a model that makes videos out of text, or out of an image."""
    kind = WanPipeline if arch.in_channels == T2V.in_channels else WanImageToVideoPipeline
    pipe = kind(transformer=transformer, **make_components(arch), **others)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def make_editor(transformer: Any) -> Any:
    """Return the pipeline that makes videos out of videos."""
    pipe = WanVideoToVideoPipeline(transformer=transformer, **make_components(T2V))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def use_euler(pipe: Any) -> None:
    """Give a pipeline the Euler sampler."""
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)


def make_image(seed: int = 0, width: int = SIZE.width, height: int = SIZE.height) -> Image.Image:
    """Return an image of noise."""
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (height, width, 3), generator=generator, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def run(pipe: Any, **changed: Any) -> torch.Tensor:
    """Return a pipeline's latents, from the same noise every time."""
    call = CALL | changed
    if isinstance(pipe, WanImageToVideoPipeline):
        call.setdefault("image", make_image())
    if "generator" not in call:
        call["generator"] = torch.Generator().manual_seed(7)
    latents: torch.Tensor = pipe(**call).frames
    return latents


def relative(found: torch.Tensor, want: torch.Tensor) -> float:
    """Return the relative distance of two tensors."""
    return float((found - want).norm() / want.norm())


def write_lora(
    path: Path, arch: Architecture = I2V, rank: int = 4, seed: int = 0, where: str = "attn2"
) -> Path:
    """Write a LoRA as diffusers saves one, strong enough to be seen."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, shape in module_shapes(arch).items():
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and len(shape) == 2 and f".{where}." in name:
            out, width = shape
            stem = f"transformer.{module}"
            down = torch.randn(rank, width, generator=generator) * width**-0.5
            tensors[f"{stem}.lora_A.weight"] = down
            tensors[f"{stem}.lora_B.weight"] = torch.randn(out, rank, generator=generator) * 0.3
    save_file(tensors, path)
    return path
