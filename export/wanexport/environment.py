"""What a report of a bug has to say of where it happened: versions, devices, caches."""

from __future__ import annotations

import platform
import re
import sys
from importlib import metadata
from pathlib import Path

from wanexport.storage.hashes import cache_path
from wanrt.machine.cores import usable_cores
from wanrt.machine.describe import processor_name
from wanrt.machine.smi import query_gpus

__all__ = ["Facts", "describe_environment"]

Facts = list[tuple[str, str]]
ALSO = ("tensorrt", "tensorrt-cu13-bindings", "tensorrt-rtx")
"""Distributions that matter though no extra asks for them by that name."""
DEVELOPING = 'extra == "dev"'
NAME = re.compile(r"[A-Za-z0-9._-]+")


def describe_environment() -> Facts:
    """Return what this environment is, by name; nothing is loaded but ONNX Runtime.

    Packages are those that wanexport or one of its extras asks for, and TensorRT's.
    """
    return [
        ("wanexport", f"{metadata.version('wanexport')}, {Path(__file__).parent}"),
        ("python", f"{platform.python_version()}, {sys.executable}"),
        ("system", platform.platform()),
        ("processor", f"{processor_name()}, {usable_cores()} usable cores"),
        *(("gpu", gpu) for gpu in _list_gpus()),
        ("providers", _providers()),
        *(("package", f"{name} {version}") for name, version in _packages()),
        ("cache", f"hashes: {cache_path() or 'none: this user has no home'}"),
        ("cache", f"checkpoints by name: {_hub_cache()}"),
    ]


def _packages() -> Facts:
    """Return those that are installed, with their versions."""
    asked = [text for text in metadata.requires("wanexport") or [] if DEVELOPING not in text]
    names = {found[0] for text in asked if (found := NAME.match(text))} | set(ALSO)
    installed = []
    for name in sorted(names - {"wanexport"}, key=str.lower):
        try:
            installed.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            continue
    return installed


def _providers() -> str:
    try:
        import onnxruntime
    except ImportError:
        return "none: onnxruntime isn't installed"
    return ", ".join(onnxruntime.get_available_providers())


def _list_gpus() -> list[str]:
    """Return what NVIDIA's driver says of each GPU, or that it says nothing."""
    rows = query_gpus(("name", "compute_cap", "memory.total", "driver_version"))
    if rows is None:
        return ["none: nvidia-smi doesn't answer"]
    return [
        f"{name}, compute capability {capability}, {memory} MiB, driver {driver}"
        for name, capability, memory, driver in rows
    ] or ["none: nvidia-smi lists no GPU"]


def _hub_cache() -> str:
    try:
        from huggingface_hub.constants import HF_HUB_CACHE
    except ImportError:
        return "none: huggingface_hub isn't installed"
    return str(HF_HUB_CACHE)
