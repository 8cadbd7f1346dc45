"""Compiled engines of fine-tuned Wan2.1 video models.

Importing this package imports neither torch nor anything else that is slow; the names below load
what they need when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wanexport.build.recipe import build_engines
    from wanexport.build.request import BuildRequest
    from wanexport.errors import WanExportError

__all__ = ["BuildRequest", "WanExportError", "build_engines"]
__version__ = "0.1.0"

_HOMES = {
    "BuildRequest": "wanexport.build.request",
    "WanExportError": "wanexport.errors",
    "build_engines": "wanexport.build.recipe",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
