"""Models that grew out of Wan's, and why engines of them can't be built: one home of the words."""

from __future__ import annotations

__all__ = [
    "FUSED", "OTHER_INPUTS", "TI2V", "TI2V_CHANNELS", "TI2V_REASON", "TI2V_WIDTH", "UNFUSE",
]  # fmt: skip

OTHER_INPUTS = "it takes inputs that Wan's text- and image-to-video models don't have"
TI2V = "Wan2.2 TI2V-5B"
TI2V_WIDTH, TI2V_CHANNELS = 3072, 48
TI2V_REASON = "every token has a timestep of its own there; the engines' graph has one per sample"
FUSED = r"[._]to_(?:qkv|kv|added_kv)[._]"  # what fuse_qkv_projections() of diffusers makes
UNFUSE = "call unfuse_qkv_projections() on its transformer before training or saving"
