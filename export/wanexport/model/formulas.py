"""Tokens, parameters, flops, bytes and memory of one forward of the Wan2.1 DiT, by part.

Sources: the module structure of diffusers' `transformer_wan.py` (0.42) and, for the counting rule
(multiply and add are two, elementwise work is free), `torch.utils.flop_counter.FlopCounterMode`,
which these formulas equal to the last digit on the real architectures. `docs/predicting.md` has the
formulas on a page.

Cross-attention's keys and values depend on the prompt and the image alone. So a `forward` is a
`context`, which may be computed once per prompt, and a `step`, which is left for every forward.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "Dims",
    "Lora",
    "count_activations",
    "count_adapter",
    "count_branch",
    "count_bytes",
    "count_context_values",
    "count_flops",
    "count_memory",
    "count_parameters",
    "count_tokens",
]

GraphName = Literal["forward", "step", "context"]
Lora = Mapping[str, tuple[int, int, int]]
"""What an unmerged adapter adds, by module: (rank, in features, out features)."""

VAE_STRIDE = (4, 8, 8)
PATCH = (1, 2, 2)
PATCH_VOLUME = PATCH[0] * PATCH[1] * PATCH[2]
CONTEXT_MODULES = ("attn2.to_k", "attn2.to_v", "add_k_proj", "add_v_proj")
# The part of a forward that reads the parameters of a part of the model.
READ_BY = {
    "self_attention": "self_attention_linear",
    "cross_attention": "cross_attention_linear",
    "modulation": "elementwise",
}
# Reads and writes of [tokens, width] per layer if every step is fused with what it can be.
TRAFFIC = {
    "self_attention_linear": 7,  # x to q, k, v: 4; output and residual: 3
    "self_attention": 4,
    "elementwise": 12,  # norm and modulation 2, q/k norm and rotary 4, norm2 2, q norm 2, norm3 2
    "cross_attention_linear": 5,  # q: 2; output and residual: 3
    "cross_attention": 2,
    "ffn": 3,  # besides writing and reading [tokens, ffn]
}


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


def count_parameters(dims: Dims, graph: GraphName = "forward") -> dict[str, int]:
    """Return the parameters that a graph reads by part; a forward's sum is the checkpoint's."""
    d, f, n = dims.width, dims.ffn, dims.layers
    image = dims.image_dim
    linear = d * d + d
    step = {
        "self_attention": n * (4 * linear + 2 * d),
        "cross_attention": n * (2 * linear + d + 2 * d),
        "ffn": n * (2 * d * f + f + d),
        "modulation": (6 * n + 2) * d,
        "embedding": (dims.in_channels * PATCH_VOLUME * d + d)
        + (dims.freq_dim * d + d + linear + 6 * linear),
        "head": d * dims.out_channels * PATCH_VOLUME + dims.out_channels * PATCH_VOLUME,
    }
    context = {
        "cross_attention": n * (2 * linear + d),
        "embedding": dims.text_dim * d + d + linear,
    }
    if image is not None:
        context["cross_attention"] += n * (2 * linear + d)
        context["embedding"] += 2 * image + (image * image + image) + (image * d + d) + 2 * d
        if dims.image_tokens > 257:  # FLF2V learns a position embedding of both frames' tokens
            context["embedding"] += dims.image_tokens * image
    return _choose(graph, step, context)


def count_flops(
    dims: Dims,
    tokens: int,
    batch: int = 1,
    lora: Lora | None = None,
    graph: GraphName = "forward",
) -> dict[str, int]:
    """Return the flops of a graph by part, for the whole batch.

    Args:
        dims: the model's sizes.
        tokens: latent patches of one sample.
        batch: samples per forward.
        lora: an unmerged adapter.
        graph: a whole forward, or what K and V once per prompt split it into.
    """
    d, f, n = dims.width, dims.ffn, dims.layers
    text, image = dims.text_tokens, dims.image_tokens
    step = {
        "self_attention_linear": 8 * tokens * d * d * n,
        "self_attention": 4 * tokens * tokens * d * n,
        "cross_attention_linear": 4 * tokens * d * d * n,
        "cross_attention": 4 * tokens * (text + image) * d * n,
        "ffn": 4 * tokens * d * f * n,
        "embedding": 2 * tokens * dims.in_channels * PATCH_VOLUME * d
        + 2 * (dims.freq_dim * d + 7 * d * d),
        "head": 2 * tokens * d * dims.out_channels * PATCH_VOLUME,
    }
    context = {
        "cross_attention_linear": 4 * (text + image) * d * d * n,
        "embedding": 2 * text * (dims.text_dim * d + d * d),
    }
    if dims.image_dim is not None:
        context["embedding"] += 2 * image * (dims.image_dim**2 + dims.image_dim * d)
    parts = _choose(graph, step, context)
    if lora:
        branches = _branches(lora, graph, tokens, dims)
        parts["lora"] = sum(2 * rows * rank * (i + o) for rows, rank, i, o in branches)
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
    lora: Lora | None = None,
    graph: GraphName = "forward",
    swappable: bool = False,
) -> dict[str, int]:
    """Return the memory traffic of one ideally fused run of a graph by part.

    Weights are read once. Activations count reads and writes of [tokens, width] per fused step:
    norm and modulation 2, qkv 4, q/k norm and rotary 4, attention 4, output and residual 3, norm 2,
    cross q 2, its norm 2, cross-attention 2, output and residual 3, norm 2, ffn 3 + 2 ffn/width. An
    unmerged adapter is counted in the form that moves less in each module (`count_branch`). Left
    out: rows of text and image, which are few, and what stem and head read and write.
    """
    parts = {
        READ_BY.get(part, part): values * itemsize
        for part, values in count_parameters(dims, graph).items()
    }
    if graph != "context":
        unit = dims.layers * batch * tokens * itemsize
        for part, times in TRAFFIC.items():
            parts[part] = parts.get(part, 0) + times * unit * dims.width
        parts["ffn"] += 2 * unit * dims.ffn
    if lora:
        branches = _branches(lora, graph, tokens, dims)
        parts["lora"] = itemsize * sum(
            min(
                count_branch(batch * rows, *sizes, form="branch"),
                count_branch(batch * rows, *sizes, form="fused", swappable=swappable),
            )
            for rows, *sizes in branches
        )
    return parts


def count_branch(
    rows: int,
    rank: int,
    fan_in: int,
    fan_out: int,
    *,
    form: Literal["branch", "fused"],
    swappable: bool = False,
) -> int:
    """Return how many values an unmerged adapter of one linear layer moves beside the layer.

    Both forms read A and B, and x once more for t = x A^T. As a `branch` the layer's output is
    written, read and written again. `fused`, [x, t] [W, B]^T, writes and reads t instead, and in a
    `swappable` engine, where B is an input, reads W and writes [W, B] in every forward.
    """
    moved = rank * (fan_in + fan_out) + rows * fan_in
    if form == "branch":
        return moved + 2 * rows * fan_out
    return moved + 2 * rows * rank + (2 * fan_out * (fan_in + rank) if swappable else 0)


def count_adapter(lora: Lora) -> int:
    """Return the parameters of an adapter."""
    return sum(rank * (fan_in + fan_out) for rank, fan_in, fan_out in lora.values())


def count_context_values(dims: Dims, batch: int = 1) -> int:
    """Return how many values K and V of the prompt and the image are, over all layers."""
    return 2 * batch * (dims.text_tokens + dims.image_tokens) * dims.width * dims.layers


def count_activations(width: int, ffn: int, tokens: int, itemsize: int, batch: int = 1) -> int:
    """Return the most bytes that one layer needs at a time.

    That is the residual beside q, k, v and attention's output, or beside the ffn's input and hidden
    rows.
    """
    return batch * tokens * max(5 * width, 2 * width + ffn) * itemsize


def count_memory(
    dims: Dims,
    tokens: int,
    itemsize: int,
    batch: int = 1,
    lora: Lora | None = None,
    graph: GraphName = "forward",
) -> dict[str, int]:
    """Return the bytes that must lie in memory at once to run a graph, by what they are.

    A step also holds the context. A backend's workspace comes on top, so this is the least a device
    must have.
    """
    activations = count_activations(dims.width, dims.ffn, tokens, itemsize, batch)
    parts = {
        "weights": sum(count_parameters(dims, graph).values()) * itemsize,
        "adapter": count_adapter(_modules(lora or {}, graph)) * itemsize,
        "activations": 0 if graph == "context" else activations,
    }
    if graph != "forward":
        parts["context"] = count_context_values(dims, batch) * itemsize
    return parts


def _choose(graph: GraphName, step: dict[str, int], context: dict[str, int]) -> dict[str, int]:
    if graph == "step":
        return step
    if graph == "context":
        return context
    return {part: count + context.get(part, 0) for part, count in step.items()}


def _branches(
    lora: Lora, graph: GraphName, tokens: int, dims: Dims
) -> Iterator[tuple[int, int, int, int]]:
    """Yield (rows of one sample, rank, in, out) of what a graph carries of an adapter."""
    for module, sizes in _modules(lora, graph).items():
        yield module_rows(module, tokens, dims), *sizes


def _modules(lora: Lora, graph: GraphName) -> Lora:
    """Return the part of an adapter that a graph carries."""
    if graph == "forward":
        return lora
    return {m: sizes for m, sizes in lora.items() if _of_context(m) == (graph == "context")}


def _of_context(module: str) -> bool:
    """Tell whether a module's output depends on the prompt and the image alone."""
    return module.endswith(CONTEXT_MODULES) or any(
        name in module for name in ("text_embedder", "image_embedder")
    )
