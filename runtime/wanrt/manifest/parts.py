"""The parts of a forward, as manifests count flops and bytes by them, and what people call them."""

from __future__ import annotations

__all__ = ["PARTS", "part_of_module"]

PARTS = {
    "self_attention_linear": "self-attention, linear",
    "self_attention": "self-attention",
    "cross_attention_linear": "cross-attention, linear",
    "cross_attention": "cross-attention",
    "ffn": "ffn",
    "elementwise": "norms, modulation, rotary",
    "embedding": "embedding",
    "head": "head",
}
"""In the order of a forward; an adapter's own part, `lora`, stands apart."""

LINEARS = {"attn1": "self_attention_linear", "attn2": "cross_attention_linear", "ffn": "ffn"}


def part_of_module(node: str) -> str | None:
    """Return the part that a Gemm's or an attention's node belongs to; None for other nodes.

    The exporter names them `SCOPE.MODULE`: `blocks.3.attn1.to_q`, `blocks.3.attn2.attention`,
    `stem.condition_embedder.time_proj`, `head.proj_out`. In the names of others an operator
    follows, which alone starts with an upper-case letter: `blocks.3.attn1.to_q.Reshape`.
    """
    scope, *rest = node.split(".")
    if any(part[:1].isupper() for part in rest):
        return None
    if scope in ("stem", "head"):
        return "embedding" if scope == "stem" else "head"
    if scope != "blocks" or len(rest) < 3 or rest[1] not in LINEARS:
        return None
    part = LINEARS[rest[1]]
    return part.removesuffix("_linear") if rest[2].endswith("attention") else part
