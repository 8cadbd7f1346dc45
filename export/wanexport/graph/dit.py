"""The Wan2.1 DiT in three pieces that trace well: stem, block and head.

The modules and parameters are diffusers' own (`models/transformers/transformer_wan.py`, 0.36 to
0.42); only the forwards are rewritten. What differs from the originals, and why:

- Every Linear sees a matrix [rows, features], so it becomes one Gemm that reads the weight as the
  checkpoint stores it.
- Attention is one ONNX op on [batch, tokens, width] with scale 1: 1/sqrt(head_dim) is folded into
  the query norm's weight in fp32, because TensorRT's importer multiplies Q and K by sqrt(scale)
  rounded to the tensor's dtype.
- The rotary embedding is one ONNX op in fp32. diffusers writes strided slices in place, which
  exports as ScatterND over the full query and key.
- The patch embedding (stride = kernel) is a reshape and a Gemm; there is no bf16 Conv on CPUs.
- Text and image contexts stay apart; diffusers concatenates them and splits again at a constant.
- Norms, modulation, gates and the time embedder compute in fp32 whatever the dtype, as diffusers
  does under `_keep_in_fp32_modules`. Between query and key norms and the rotary embedding there is
  no rounding to 16 bits, which diffusers has.
- A low-rank branch is (x A^T) B^T with its scale inside B; PEFT multiplies by the scale afterwards.

All 40 blocks share one structure, so a block is traced once for each set of adapted modules and
instantiated per layer: tracing takes as long for 40 layers as for one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor, nn
from torch.nn import functional

from wanexport.model.config import Architecture

__all__ = ["Block", "Head", "Stem", "TimeEmbedding", "attach_adapter", "make_model"]


class Stem(nn.Module):
    """Everything before the blocks: patches, conditions and the rotary table.

    Maps hidden_states [B, C, F, H, W], timestep [B] (fp32), encoder_hidden_states [B, 512, text]
    and, with image conditioning, encoder_hidden_states_image [B, tokens, 1280] to the tokens
    [B, L, D], the time embedding [B, D], its projection [B, 6, D], the text [B, 512, D], cos and
    sin [B, L, 64] (fp32) and the image context [B, tokens, D].
    """

    def __init__(self, model: WanTransformer3DModel) -> None:
        super().__init__()
        self.patch_embedding = model.patch_embedding
        self.condition_embedder = model.condition_embedder
        self.rope = model.rope

    def forward(
        self, hidden_states: Tensor, timestep: Tensor, text: Tensor, image: Tensor | None = None
    ) -> tuple[Tensor, ...]:
        tokens = _linear(self.patch_embedding, _patchify(hidden_states))
        embedder = self.condition_embedder
        time = embedder.timesteps_proj(timestep)
        time = functional.silu(_linear_fp32(embedder.time_embedder.linear_1, time))
        time = _linear_fp32(embedder.time_embedder.linear_2, time).type_as(hidden_states)
        modulation = _linear(embedder.time_proj, functional.silu(time))
        modulation = modulation.reshape(time.shape[0], 6, -1)
        text = _linear(embedder.text_embedder.linear_1, text)
        text = _linear(embedder.text_embedder.linear_2, functional.gelu(text, approximate="tanh"))
        cos, sin = _rotary_table(self.rope, hidden_states)
        outputs = (tokens, time, modulation, text, cos, sin)
        if image is None:
            return outputs
        return (*outputs, _embed_image(embedder.image_embedder, image))


class Block(nn.Module):
    """One transformer block: [B, L, D] to [B, L, D]."""

    def __init__(self, model: WanTransformer3DModel) -> None:
        super().__init__()
        block = model.blocks[0]
        self.attn1 = block.attn1
        self.attn2 = block.attn2
        self.ffn = block.ffn
        self.norm1, self.norm2, self.norm3 = block.norm1, block.norm2, block.norm3
        self.scale_shift_table = block.scale_shift_table

    def forward(
        self,
        x: Tensor,
        modulation: Tensor,
        text: Tensor,
        cos: Tensor,
        sin: Tensor,
        image: Tensor | None = None,
    ) -> Tensor:
        table = self.scale_shift_table.float() + modulation.float()  # [B, 6, D]
        h = _modulate(self.norm1, x, shift=table[:, 0:1], scale=table[:, 1:2])
        x = _gate(x, _self_attention(self.attn1, h, cos, sin), table[:, 2:3])
        h = _layer_norm(self.norm2, x).type_as(x)
        x = x + _cross_attention(self.attn2, h, text, image)
        h = _modulate(self.norm3, x, shift=table[:, 3:4], scale=table[:, 4:5])
        h = functional.gelu(_linear(self.ffn.net[0].proj, h), approximate="tanh")
        return _gate(x, _linear(self.ffn.net[2], h), table[:, 5:6])


class Head(nn.Module):
    """Everything after the blocks: [B, L, D] to a sample [B, C, F, H, W].

    `hidden_states`, the model's input, is read for its sizes only.
    """

    def __init__(self, model: WanTransformer3DModel) -> None:
        super().__init__()
        self.norm_out = model.norm_out
        self.proj_out = model.proj_out
        self.scale_shift_table = model.scale_shift_table

    def forward(self, x: Tensor, time: Tensor, hidden_states: Tensor) -> Tensor:
        table = self.scale_shift_table.float() + time.float().unsqueeze(1)  # [B, 2, D]
        x = _modulate(self.norm_out, x, shift=table[:, 0:1], scale=table[:, 1:2])
        return _unpatchify(_linear(self.proj_out, x), hidden_states)


class TimeEmbedding(nn.Module):
    """diffusers' sinusoidal embedding of the timestep, [B] to [B, freq_dim], cosines first.

    Its frequencies are values that torch computed, as it does for diffusers. Folded at export, half
    of them differ in the last bit, which t = 1000 makes an error of 6e-5.
    """

    frequencies: Tensor

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        half = arch.freq_dim // 2
        exponents = -math.log(10_000) * torch.arange(half, dtype=torch.float32) / half
        self.register_buffer("frequencies", torch.exp(exponents))

    def forward(self, timestep: Tensor) -> Tensor:
        angles = timestep[:, None].float() * self.frequencies[None, :]
        return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


def make_model(arch: Architecture, layers: int) -> WanTransformer3DModel:
    """Return diffusers' own model of that architecture with `layers` blocks."""
    sizes = arch.model_dump(exclude={"num_layers"})  # named as diffusers names its arguments
    return WanTransformer3DModel(num_layers=layers, **sizes)


def attach_adapter(piece: nn.Module, ranks: Mapping[str, int]) -> None:
    """Give modules of a piece a low-rank branch: parameters lora_A [r, in] and lora_B [out, r]."""
    for name, rank in ranks.items():
        layer = piece.get_submodule(name)
        weight = cast(Tensor, layer.weight)
        flat = weight.flatten(1)
        layer.register_parameter("lora_A", nn.Parameter(flat.new_empty(rank, flat.shape[1])))
        layer.register_parameter("lora_B", nn.Parameter(flat.new_empty(flat.shape[0], rank)))


def _linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Apply a Linear (or the patch Conv3d) and its adapter's branch to [..., in]."""
    rows = x.flatten(0, -2)
    weight = cast(Tensor, layer.weight).flatten(1)
    y = functional.linear(rows, weight, cast(Tensor, layer.bias))
    if hasattr(layer, "lora_A"):
        down = functional.linear(rows, cast(Tensor, layer.lora_A))
        y = y + functional.linear(down, cast(Tensor, layer.lora_B))
    return y.reshape(*x.shape[:-1], weight.shape[0])


def _linear_fp32(layer: nn.Module, x: Tensor) -> Tensor:
    y = functional.linear(x, cast(Tensor, layer.weight).float(), cast(Tensor, layer.bias).float())
    if hasattr(layer, "lora_A"):
        down = functional.linear(x, cast(Tensor, layer.lora_A).float())
        y = y + functional.linear(down, cast(Tensor, layer.lora_B).float())
    return y


def _layer_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """Return the LayerNorm in fp32, for fp32 arithmetic to follow."""
    weight, bias = cast(Tensor | None, norm.weight), cast(Tensor | None, norm.bias)
    return functional.layer_norm(
        x.float(),
        cast(tuple[int, ...], norm.normalized_shape),
        None if weight is None else weight.float(),
        None if bias is None else bias.float(),
        cast(float, norm.eps),
    )


def _modulate(norm: nn.Module, x: Tensor, *, shift: Tensor, scale: Tensor) -> Tensor:
    return (_layer_norm(norm, x) * (1 + scale) + shift).type_as(x)


def _gate(x: Tensor, branch: Tensor, gate: Tensor) -> Tensor:
    return (x.float() + branch.float() * gate).type_as(x)


def _rms_norm(norm: nn.Module, x: Tensor, factor: float = 1.0) -> Tensor:
    """Normalize across all heads in fp32; `factor` scales the weight, so it costs nothing."""
    weight = cast(Tensor, norm.weight).float()
    if factor != 1.0:
        weight = weight * factor
    shape = cast(tuple[int, ...], norm.normalized_shape)
    return functional.rms_norm(x.float(), shape, weight, cast(float, norm.eps))


def _attend(heads: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return torch.onnx.ops.attention(
        query, key, value, q_num_heads=heads, kv_num_heads=heads, scale=1.0
    )[0]


def _self_attention(attn: nn.Module, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    heads = cast(int, attn.heads)
    scale = _attention_scale(attn)
    query = _rms_norm(cast(nn.Module, attn.norm_q), _linear(_sub(attn, "to_q"), x), scale)
    key = _rms_norm(cast(nn.Module, attn.norm_k), _linear(_sub(attn, "to_k"), x))
    query = torch.onnx.ops.rotary_embedding(query, cos, sin, interleaved=True, num_heads=heads)
    key = torch.onnx.ops.rotary_embedding(key, cos, sin, interleaved=True, num_heads=heads)
    value = _linear(_sub(attn, "to_v"), x)
    out = _attend(heads, query.type_as(x), key.type_as(x), value)
    return _linear(_sub(attn, "to_out.0"), out)


def _cross_attention(attn: nn.Module, x: Tensor, text: Tensor, image: Tensor | None) -> Tensor:
    heads = cast(int, attn.heads)
    scale = _attention_scale(attn)
    query = _rms_norm(_sub(attn, "norm_q"), _linear(_sub(attn, "to_q"), x), scale).type_as(x)
    key = _rms_norm(_sub(attn, "norm_k"), _linear(_sub(attn, "to_k"), text)).type_as(x)
    out = _attend(heads, query, key, _linear(_sub(attn, "to_v"), text))
    if image is not None:
        key = _rms_norm(_sub(attn, "norm_added_k"), _linear(_sub(attn, "add_k_proj"), image))
        out = out + _attend(heads, query, key.type_as(x), _linear(_sub(attn, "add_v_proj"), image))
    return _linear(_sub(attn, "to_out.0"), out)


def _attention_scale(attn: nn.Module) -> float:
    return 1 / math.sqrt(cast(int, attn.inner_dim) // cast(int, attn.heads))


def _sub(module: nn.Module, name: str) -> nn.Module:
    return module.get_submodule(name)


def _embed_image(embedder: nn.Module, image: Tensor) -> Tensor:
    pos_embed = cast(Tensor | None, embedder.pos_embed)
    if pos_embed is not None:
        image = image + pos_embed.type_as(image)
    x = _layer_norm(_sub(embedder, "norm1"), image).type_as(image)
    x = functional.gelu(_linear(_sub(embedder, "ff.net.0.proj"), x))
    x = _linear(_sub(embedder, "ff.net.2"), x)
    return _layer_norm(_sub(embedder, "norm2"), x).type_as(image)


def _rotary_table(rope: nn.Module, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
    """Return cos and sin [B, L, head_dim / 2]: per axis the frequencies of its positions."""
    batch, _, frames, height, width = hidden_states.shape
    sizes = (frames, height // 2, width // 2)
    splits = [cast(int, getattr(rope, f"{axis}_dim")) // 2 for axis in "thw"]
    tables = []
    for name in ("freqs_cos", "freqs_sin"):
        # diffusers repeats every frequency twice, once for each half of its pair
        columns = cast(Tensor, getattr(rope, name))
        axes = []
        start = 0
        for axis, (size, length) in enumerate(zip(sizes, splits, strict=True)):
            part = columns[:size, start : start + length]
            start += length
            view = [1, 1, 1, length]
            view[axis] = size
            axes.append(part.reshape(view).expand(*sizes, length))
        table = torch.cat(axes, dim=-1).reshape(1, sizes[0] * sizes[1] * sizes[2], start)
        tables.append(table.expand(batch, -1, -1))
    return tables[0], tables[1]


def _patchify(x: Tensor) -> Tensor:
    batch, channels, frames, height, width = x.shape
    x = x.reshape(batch, channels, frames, height // 2, 2, width // 2, 2)
    x = x.permute(0, 2, 3, 5, 1, 4, 6)  # [B, F, H/2, W/2, C, 2, 2]
    return x.reshape(batch, frames * (height // 2) * (width // 2), channels * 4)


def _unpatchify(x: Tensor, hidden_states: Tensor) -> Tensor:
    batch, _, frames, height, width = hidden_states.shape
    x = x.reshape(batch, frames, height // 2, width // 2, 2, 2, x.shape[-1] // 4)
    x = x.permute(0, 6, 1, 2, 4, 3, 5)  # [B, C, F, H/2, 2, W/2, 2]
    return x.reshape(batch, x.shape[1], frames, height, width)
