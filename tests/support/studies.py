"""Tiny models of the real architecture, and engines built from them through the public surface."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wanexport.build.request import BuildRequest
from wanexport.model.config import Architecture, Config, Experts, Size
from wanrt.manifest.fields import Dtype
from wanrt.terminal.progress import Reporter

if TYPE_CHECKING:
    from wanexport.build.recipe import Built

I2V = Architecture(
    num_layers=2,
    num_attention_heads=2,
    ffn_dim=320,
    in_channels=36,
    text_dim=64,
    image_dim=80,
    added_kv_proj_dim=256,
)
T2V = Architecture(num_layers=2, num_attention_heads=1, ffn_dim=320, in_channels=16, text_dim=64)
FLF2V = I2V.model_copy(update={"pos_embed_seq_len": 514, "num_layers": 1})
SIZE = Size(width=96, height=64, frames=5)
OTHER_SIZES = (Size(width=48, height=80, frames=1), Size(width=64, height=32, frames=13, batch=2))
I2V_14B = Architecture(
    num_layers=40,
    num_attention_heads=40,
    ffn_dim=13824,
    in_channels=36,
    image_dim=1280,
    added_kv_proj_dim=5120,
)


def config(
    arch: Architecture = I2V,
    dtype: Dtype = "fp32",
    size: Size = SIZE,
    experts: Experts | None = None,
) -> Config:
    return Config(name="tiny", dtype=dtype, architecture=arch, size=size, experts=experts)


def build(out: Path, arch: Architecture = I2V, **options: Any) -> list[Built]:
    """Build engines; `dtype`, `size`, `experts` are the configuration's, the rest the request's."""
    from wanexport.build.recipe import build_engines  # torch, which sizes alone don't need

    reporter = options.pop("reporter", None) or Reporter(quiet=True)
    chosen = {key: options.pop(key) for key in ("dtype", "size", "experts") if key in options}
    made = config(arch, **chosen)
    if options.get("dynamic"):
        made = made.model_copy(update={"dynamic_sizes": OTHER_SIZES})
    request = BuildRequest(config=made, out=out, **options)
    return build_engines(request, reporter)
