"""Which parameters the graph reads in fp32, whatever the engine's dtype."""

from __future__ import annotations

__all__ = ["computes_in_fp32"]


def computes_in_fp32(parameter: str) -> bool:
    """Tell whether the graph casts a parameter to fp32, so that it may be stored in any dtype.

    Norms, modulation tables and the time embedder: diffusers' `_keep_in_fp32_modules` and the
    query and key norms, which compute in fp32 there too.
    """
    return any(part in parameter for part in ("norm", "scale_shift_table", "time_embedder"))
