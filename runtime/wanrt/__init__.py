"""Run and bench the engine folders that wanexport builds; needs neither torch nor wanexport."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wanrt.backends.load import load_engine
    from wanrt.bench.run import bench_engines
    from wanrt.errors import WanrtError
    from wanrt.manifest.schema import Manifest

__all__ = ["Manifest", "WanrtError", "bench_engines", "load_engine"]

_HOME = {
    "Manifest": "wanrt.manifest.schema",
    "WanrtError": "wanrt.errors",
    "bench_engines": "wanrt.bench.run",
    "load_engine": "wanrt.backends.load",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'wanrt' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return __all__
