"""Engines inside diffusers' pipelines; only here meet torch, diffusers and wanrt's engines."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wanexport.pipelines.transformer import EngineTransformer

__all__ = ["EngineTransformer"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from wanexport.pipelines import transformer

    return getattr(transformer, name)
