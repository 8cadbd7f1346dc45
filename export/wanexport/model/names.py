"""Parameter names of the Wan2.1 DiT: the original repository's, diffusers', and their shapes.

diffusers' come from `transformer_wan.py` (0.42), the original's from `wan/modules/model.py`; all
names of both map one to one. Beware of norm2 and norm3, which the two have swapped: the norm with
parameters is diffusers' norm2 and the original's norm3.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType

from wanexport.model.config import Architecture
from wanexport.model.formulas import PATCH, PATCH_VOLUME

__all__ = ["computes_in_fp32", "is_known", "module_shapes", "to_diffusers", "to_original"]

Shape = tuple[int, ...]

_MODEL = {
    "patch_embedding": "patch_embedding",
    "text_embedding.0": "condition_embedder.text_embedder.linear_1",
    "text_embedding.2": "condition_embedder.text_embedder.linear_2",
    "time_embedding.0": "condition_embedder.time_embedder.linear_1",
    "time_embedding.2": "condition_embedder.time_embedder.linear_2",
    "time_projection.1": "condition_embedder.time_proj",
    "img_emb.proj.0": "condition_embedder.image_embedder.norm1",
    "img_emb.proj.1": "condition_embedder.image_embedder.ff.net.0.proj",
    "img_emb.proj.3": "condition_embedder.image_embedder.ff.net.2",
    "img_emb.proj.4": "condition_embedder.image_embedder.norm2",
    "img_emb.emb_pos": "condition_embedder.image_embedder.pos_embed",
    "head.modulation": "scale_shift_table",
    "head.head": "proj_out",
}
_BLOCK = {
    "modulation": "scale_shift_table",
    "self_attn.q": "attn1.to_q",
    "self_attn.k": "attn1.to_k",
    "self_attn.v": "attn1.to_v",
    "self_attn.o": "attn1.to_out.0",
    "self_attn.norm_q": "attn1.norm_q",
    "self_attn.norm_k": "attn1.norm_k",
    "cross_attn.q": "attn2.to_q",
    "cross_attn.k": "attn2.to_k",
    "cross_attn.v": "attn2.to_v",
    "cross_attn.o": "attn2.to_out.0",
    "cross_attn.k_img": "attn2.add_k_proj",
    "cross_attn.v_img": "attn2.add_v_proj",
    "cross_attn.norm_q": "attn2.norm_q",
    "cross_attn.norm_k": "attn2.norm_k",
    "cross_attn.norm_k_img": "attn2.norm_added_k",
    "norm3": "norm2",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
_MODEL_BACK = {diffusers: original for original, diffusers in _MODEL.items()}
_BLOCK_BACK = {diffusers: original for original, diffusers in _BLOCK.items()}
_PARTS = re.compile(r"(blocks\.\d+\.)?(.+?)(\.weight|\.bias)?")


def to_diffusers(name: str) -> str | None:
    """Return diffusers' name of a module or parameter that has the original name, or None."""
    return _rename(name, _MODEL, _BLOCK)


def to_original(name: str) -> str | None:
    """Return the original name of a module or parameter that has diffusers' name, or None."""
    return _rename(name, _MODEL_BACK, _BLOCK_BACK)


def is_known(name: str) -> bool:
    """Tell whether a name, diffusers' or the original one, is a DiT's module's or parameter's."""
    return to_diffusers(name) is not None or to_original(name) is not None


@cache
def module_shapes(arch: Architecture) -> Mapping[str, Shape]:
    """Return the shape of every parameter of a `WanTransformer3DModel`, in its own order."""
    shapes = {
        "scale_shift_table": (1, 2, arch.width),
        **_matrix("patch_embedding", (arch.width, arch.in_channels, *PATCH)),
        **dict(_embedder(arch)),
        **{
            f"blocks.{i}.{name}": shape
            for i in range(arch.num_layers)
            for name, shape in _block(arch)
        },
        **_matrix("proj_out", (arch.out_channels * PATCH_VOLUME, arch.width)),
    }
    return MappingProxyType(shapes)


def _rename(name: str, model: dict[str, str], block: dict[str, str]) -> str | None:
    match = _PARTS.fullmatch(name)
    if match is None:
        return None
    prefix, module, parameter = (part or "" for part in match.groups())
    renamed = (block if prefix else model).get(module)
    return None if renamed is None else f"{prefix}{renamed}{parameter}"


def _matrix(module: str, shape: Shape) -> dict[str, Shape]:
    return {f"{module}.weight": shape, f"{module}.bias": shape[:1]}


def _norm(module: str, width: int) -> dict[str, Shape]:
    return {f"{module}.weight": (width,), f"{module}.bias": (width,)}


def _embedder(arch: Architecture) -> Iterator[tuple[str, Shape]]:
    d, at = arch.width, "condition_embedder"
    yield from _matrix(f"{at}.time_embedder.linear_1", (d, arch.freq_dim)).items()
    yield from _matrix(f"{at}.time_embedder.linear_2", (d, d)).items()
    yield from _matrix(f"{at}.time_proj", (6 * d, d)).items()
    yield from _matrix(f"{at}.text_embedder.linear_1", (d, arch.text_dim)).items()
    yield from _matrix(f"{at}.text_embedder.linear_2", (d, d)).items()
    if arch.image_dim is None:
        return
    image, at = arch.image_dim, f"{at}.image_embedder"
    if arch.pos_embed_seq_len is not None:
        yield f"{at}.pos_embed", (1, arch.pos_embed_seq_len, image)
    yield from _norm(f"{at}.norm1", image).items()
    yield from _matrix(f"{at}.ff.net.0.proj", (image, image)).items()
    yield from _matrix(f"{at}.ff.net.2", (d, image)).items()
    yield from _norm(f"{at}.norm2", d).items()


def _block(arch: Architecture) -> Iterator[tuple[str, Shape]]:
    d = arch.width
    yield "scale_shift_table", (1, 6, d)
    for attention in ("attn1", "attn2"):
        image = attention == "attn2" and arch.image_dim is not None
        for name in ("to_q", "to_k", "to_v", "to_out.0"):
            yield from _matrix(f"{attention}.{name}", (d, d)).items()
        yield f"{attention}.norm_q.weight", (d,)
        yield f"{attention}.norm_k.weight", (d,)
        if image:
            yield from _matrix(f"{attention}.add_k_proj", (d, d)).items()
            yield from _matrix(f"{attention}.add_v_proj", (d, d)).items()
            yield f"{attention}.norm_added_k.weight", (d,)
    yield from _norm("norm2", d).items()
    yield from _matrix("ffn.net.0.proj", (arch.ffn_dim, d)).items()
    yield from _matrix("ffn.net.2", (d, arch.ffn_dim)).items()


def computes_in_fp32(parameter: str) -> bool:
    """Tell whether the graph casts a parameter to fp32, so that it may be stored in any dtype.

    Norms, modulation tables and the time embedder: diffusers' `_keep_in_fp32_modules` and the
    query and key norms, which compute in fp32 there too.
    """
    return any(part in parameter for part in ("norm", "scale_shift_table", "time_embedder"))
