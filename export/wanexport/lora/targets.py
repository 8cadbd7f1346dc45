"""Which linear layers adapters sit on: sets that people have names for, and patterns."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Final

from wanexport.errors import UsageError
from wanexport.model.config import Architecture
from wanexport.model.names import module_shapes
from wanexport.storage.hashes import sha256_text

__all__ = [
    "DEFAULT_TARGETS", "TARGET_SETS", "Targets", "choose_targets", "linear_modules",
    "name_smallest", "select_modules",
]  # fmt: skip

TARGET_SETS: Final = {
    "cross-attention": ("blocks.*.attn2.*",),
    "self-attention": ("blocks.*.attn1.*",),
    "attention": ("blocks.*.attn1.*", "blocks.*.attn2.*"),
    "ffn": ("blocks.*.ffn.*",),
    "all": ("blocks.*",),
}
"""Name -> patterns of diffusers' module names, a set before those that contain it."""
DEFAULT_TARGETS: Final = ("cross-attention",)


@dataclass(frozen=True)
class Targets:
    """Layers that adapters of one engine may sit on.

    Args:
        name: the set's, or what was asked for.
        label: its part of file names; empty for cross-attention alone.
        modules: diffusers' names, in the model's order.
    """

    name: str
    label: str
    modules: tuple[str, ...]


def choose_targets(arch: Architecture, asked: Sequence[str]) -> Targets:
    """Return the layers that names of sets and patterns choose together; cross-attention if empty.

    Raises:
        UsageError: a pattern matches no linear layer of the model.
    """
    wanted = tuple(dict.fromkeys(asked or DEFAULT_TARGETS))
    modules = select_modules(arch, *wanted)
    known = next((name for name in TARGET_SETS if select_modules(arch, name) == modules), None)
    if known is None and set(wanted) <= TARGET_SETS.keys():
        known = "+".join(name for name in TARGET_SETS if name in wanted)
    if known is None:
        return Targets(",".join(wanted), f"on-{sha256_text(' '.join(modules))[:8]}", modules)
    return Targets(known, "" if (known,) == DEFAULT_TARGETS else known, modules)


def select_modules(arch: Architecture, *asked: str) -> tuple[str, ...]:
    """Return the linear layers that any name or pattern chooses, in the model's order.

    Raises:
        UsageError: one of them chooses none.
    """
    linear = linear_modules(arch)
    chosen: set[str] = set()
    for pattern in asked:
        globs = TARGET_SETS.get(pattern, (pattern,))
        found = {name for name in linear if any(fnmatchcase(name, glob) for glob in globs)}
        if not found:
            raise UsageError(
                f"--targets {pattern} matches no linear layer", _nearest(pattern, arch)
            )
        chosen |= found
    return tuple(name for name in linear if name in chosen)


def linear_modules(arch: Architecture) -> tuple[str, ...]:
    """Return every Linear of a model by diffusers' name, in the model's order."""
    suffix = ".weight"
    return tuple(
        name.removesuffix(suffix)
        for name, shape in module_shapes(arch).items()
        if name.endswith(suffix) and len(shape) == 2
    )


def name_smallest(modules: Sequence[str]) -> str | None:
    """Return the name of the smallest set that has all of the modules, if one has."""
    for name, globs in TARGET_SETS.items():
        if all(any(fnmatchcase(module, glob) for glob in globs) for module in modules):
            return name
    return None


def _nearest(pattern: str, arch: Architecture) -> str:
    linear = linear_modules(arch)
    if any(fnmatchcase(name, f"*.{pattern}") for name in linear):
        return f"patterns match whole names: write '*.{pattern}'"
    names = [*TARGET_SETS, *linear]
    near = difflib.get_close_matches(pattern, names, n=1, cutoff=0) or names[:1]
    return f"the nearest is {near[0]}; sets are {', '.join(TARGET_SETS)}"
