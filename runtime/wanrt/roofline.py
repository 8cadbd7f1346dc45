"""Tokens, flops and bytes of one forward of the Wan2.1 DiT, by part.

Sources: the module structure of diffusers' `transformer_wan.py` (0.42) and, for the counting rule
(multiply and add are two, elementwise work is free), `torch.utils.flop_counter.FlopCounterMode`,
which these formulas equal to the last digit on the real architectures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Dims", "count_bytes", "count_flops", "count_parameters", "count_tokens"]

VAE_STRIDE = (4, 8, 8)
PATCH = (1, 2, 2)
PATCH_VOLUME = PATCH[0] * PATCH[1] * PATCH[2]


@dataclass(frozen=True)
class Dims:
    """The sizes of a Wan2.1 DiT that its cost depends on."""

    layers: int
    width: int
    ffn: int
    in_channels: int
    out_channels: int
    text_dim: int = 4096
    text_tokens: int = 512
    freq_dim: int = 256
    image_dim: int | None = None
    image_tokens: int = 0


def latent_shape(width: int, height: int, frames: int) -> tuple[int, int, int]:
    """Return the VAE latent's (frames, height, width) of a video of that many pixels and frames."""
    return (frames - 1) // VAE_STRIDE[0] + 1, height // VAE_STRIDE[1], width // VAE_STRIDE[2]


def count_tokens(width: int, height: int, frames: int) -> int:
    """Return the number of latent patches of one video."""
    f, h, w = latent_shape(width, height, frames)
    return (f // PATCH[0]) * (h // PATCH[1]) * (w // PATCH[2])


def count_parameters(dims: Dims) -> dict[str, int]:
    """Return the DiT's parameters by part; their sum is the checkpoint's."""
    d, f, n = dims.width, dims.ffn, dims.layers
    image = dims.image_dim
    linear = d * d + d
    parts = {
        "self_attention": n * (4 * linear + 2 * d),
        "cross_attention": n * (4 * linear + 2 * d + 2 * d),
        "ffn": n * (2 * d * f + f + d),
        "modulation": (6 * n + 2) * d,
        "embedding": (dims.in_channels * PATCH_VOLUME * d + d)
        + (dims.text_dim * d + d + linear)
        + (dims.freq_dim * d + d + linear + 6 * linear),
        "head": d * dims.out_channels * PATCH_VOLUME + dims.out_channels * PATCH_VOLUME,
    }
    if image is not None:
        parts["cross_attention"] += n * (2 * linear + d)
        parts["embedding"] += 2 * image + (image * image + image) + (image * d + d) + 2 * d
        if dims.image_tokens > 257:  # FLF2V learns a position embedding of both frames' tokens
            parts["embedding"] += dims.image_tokens * image
    return parts


def count_flops(
    dims: Dims, tokens: int, batch: int = 1, lora: Mapping[str, tuple[int, int, int]] | None = None
) -> dict[str, int]:
    """Return one forward's flops by part, for the whole batch.

    Args:
        dims: the model's sizes.
        tokens: latent patches of one sample.
        batch: samples per forward.
        lora: of an unmerged adapter, by module: (rank, in features, out features).
    """
    d, f, n = dims.width, dims.ffn, dims.layers
    text, image = dims.text_tokens, dims.image_tokens
    embedding = 2 * tokens * dims.in_channels * PATCH_VOLUME * d
    embedding += 2 * text * (dims.text_dim * d + d * d) + 2 * (dims.freq_dim * d + 7 * d * d)
    if dims.image_dim is not None:
        embedding += 2 * image * (dims.image_dim**2 + dims.image_dim * d)
    parts = {
        "self_attention_linear": 8 * tokens * d * d * n,
        "self_attention": 4 * tokens * tokens * d * n,
        "cross_attention_linear": (4 * tokens + 4 * text + 4 * image) * d * d * n,
        "cross_attention": 4 * tokens * (text + image) * d * n,
        "ffn": 4 * tokens * d * f * n,
        "embedding": embedding,
        "head": 2 * tokens * d * dims.out_channels * PATCH_VOLUME,
    }
    if lora:
        rows = {module: module_rows(module, tokens, dims) for module in lora}
        parts["lora"] = sum(2 * rows[m] * r * (i + o) for m, (r, i, o) in lora.items())
    return {part: batch * flops for part, flops in parts.items()}


def module_rows(module: str, tokens: int, dims: Dims) -> int:
    """Return on how many rows a linear module works in one forward of one sample."""
    if "image_embedder" in module or module.endswith(("add_k_proj", "add_v_proj")):
        return dims.image_tokens
    if "text_embedder" in module or module.endswith(("attn2.to_k", "attn2.to_v")):
        return dims.text_tokens
    if "time_" in module:
        return 1
    return tokens


def count_bytes(
    dims: Dims,
    tokens: int,
    itemsize: int,
    batch: int = 1,
    lora: Mapping[str, tuple[int, int, int]] | None = None,
) -> dict[str, int]:
    """Return the memory traffic of one ideally fused forward by part.

    Weights are read once. Activations count a read and a write of [tokens, width] per fused step:
    norm and modulation 2, qkv 4, q/k norm and rotary 4, attention 4, output and residual 3, norm 2,
    cross q 2, its norm 2, cross-attention 2, output and residual 3, norm 2, ffn 3 + 2 ffn/width. An
    unmerged adapter's branch reads x and reads and writes y once more, whatever its rank.
    """
    unit = batch * tokens * itemsize
    parts = {
        "weights": sum(count_parameters(dims).values()) * itemsize,
        "activations": dims.layers * (33 * unit * dims.width + 2 * unit * dims.ffn),
    }
    if lora:
        traffic = 0
        for module, (rank, fan_in, fan_out) in lora.items():
            rows = batch * module_rows(module, tokens, dims)
            traffic += (rank * (fan_in + fan_out) + rows * (fan_in + 2 * fan_out)) * itemsize
        parts["lora"] = traffic
    return parts
