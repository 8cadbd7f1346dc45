"""What a LoRA or checkpoint file holds, and what of it would be applied where."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wanexport.checkpoint import open_checkpoint
from wanexport.config import Architecture, Config, list_configs, load_config
from wanexport.dialects import find_unsupported, split_key
from wanexport.errors import CheckpointError
from wanexport.location import locate_checkpoint
from wanexport.lora import RANDOM_KEYS
from wanexport.names import module_shapes
from wanexport.resolution import Problem, Resolution, resolve_file
from wanexport.tensors import SafetensorsFile, open_safetensors

__all__ = ["Description", "describe_file", "format_description"]

Range = tuple[float, float]
LISTED = 10


@dataclass(frozen=True)
class Description:
    """What a file holds.

    Args:
        path: the file or folder.
        what: LoRA or checkpoint.
        dialect: a LoRA's writer or a checkpoint's naming, for people.
        tensors: how many.
        parameters: how many values they have.
        dtypes: safetensors dtype -> number of tensors.
        random_weights: whether its writer says that the values are random.
        fits: the configurations it fits in full.
        config: the configuration that the following is about.
        targets: the modules it changes, without their block's number -> how many.
        ranks: smallest and largest rank of a module.
        alphas: smallest and largest alpha tensor.
        scales: smallest and largest factor on a product of two matrices.
        low_rank: what a separate or swappable engine can carry.
        rest: what can only be merged.
        problems: what can't be applied at all.
    """

    path: Path
    what: Literal["LoRA", "checkpoint"]
    dialect: str
    tensors: int
    parameters: int
    dtypes: dict[str, int]
    random_weights: bool
    fits: tuple[str, ...]
    config: str = ""
    targets: dict[str, int] | None = None
    ranks: tuple[int, int] | None = None
    alphas: Range | None = None
    scales: Range | None = None
    low_rank: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()


def describe_file(path: Path, config: Config | None = None) -> Description:
    """Describe a LoRA or a checkpoint; keys that can't be applied are listed, not refused.

    Args:
        path: a safetensors file, or a checkpoint's folder.
        config: what it is meant for; without it, the shipped configuration that fits best.

    Raises:
        WanExportError: it can't be read.
    """
    files = [open_safetensors(file) for file in locate_checkpoint(str(path)).files]
    names = [name for file in files for name in file.tensors]
    if any(split_key(name) or find_unsupported(name) for name in names):
        return _describe_lora(files[0], config)
    return _describe_checkpoint(path, files, config)


def format_description(description: Description) -> str:
    """Return a description as text."""
    held = description
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in held.dtypes.items())
    values = {
        held.what: held.dialect,
        "tensors": f"{held.tensors:,} ({dtypes}), {held.parameters:,} parameters",
        "weights": "random" if held.random_weights else "",
        "fits": ", ".join(held.fits) or "no configuration",
        "targets": ", ".join(f"{name} x{n}" for name, n in (held.targets or {}).items()),
        "rank": _span(held.ranks),
        "alpha": _span(held.alphas),
        "scale": _span(held.scales),
        "low-rank": f"{len(held.low_rank)} changes" if held.low_rank else "",
        "merge only": _list(held.rest),
    }
    lines = [str(held.path), *(f"  {key:<10}  {value}" for key, value in values.items() if value)]
    for problem in held.problems:
        about = f" ({held.config})" if held.config else ""
        lines.append(f"  not applied{about}: {problem.message}")
        lines += [f"    hint: {problem.hint}"] if problem.hint else []
    return "\n".join(lines)


def _describe_lora(file: SafetensorsFile, config: Config | None) -> Description:
    configs = [config] if config else [load_config(name) for name in list_configs()]
    results: dict[Architecture, Resolution] = {}
    for candidate in configs:
        arch = candidate.architecture
        if arch not in results:
            results[arch] = resolve_file(file, module_shapes(arch))
    best = min(configs, key=lambda c: _unapplied(results[c.architecture]))
    result = results[best.architecture]
    products = [delta for delta in result.deltas if delta.kind != "diff"]
    low_rank = [delta for delta in result.deltas if delta.is_low_rank]
    modules = {delta.module for delta in result.deltas}
    suffixes = Counter(re.sub(r"^blocks\.\d+\.", "", module) for module in sorted(modules))
    ranks = [delta.rank for delta in products if "A" in delta.tensors]
    return Description(
        path=file.path,
        what="LoRA",
        dialect=result.dialect,
        tensors=len(file.tensors),
        parameters=_count_parameters([file]),
        dtypes=_count_dtypes([file]),
        random_weights=_is_random([file]),
        fits=tuple(c.name for c in configs if not results[c.architecture].problems),
        config=best.name,
        targets=dict(suffixes),
        ranks=(min(ranks), max(ranks)) if ranks else None,
        alphas=_range(result.alphas),
        scales=_range(delta.scale for delta in products),
        low_rank=tuple(delta.title for delta in low_rank),
        rest=tuple(delta.title for delta in result.deltas if not delta.is_low_rank),
        problems=result.problems,
    )


def _describe_checkpoint(
    path: Path, files: Sequence[SafetensorsFile], config: Config | None
) -> Description:
    problems: tuple[Problem, ...] = ()
    fits: tuple[str, ...] = ()
    dialect = "not a whole Wan2.1 DiT"
    try:
        found = open_checkpoint(str(path), config.architecture if config else None)
    except CheckpointError as error:
        problems = (Problem((), str(error), error.hint),)
    else:
        dialect = f"{found.layout} names"
        configs = [config] if config else [load_config(name) for name in list_configs()]
        fits = tuple(c.name for c in configs if c.architecture == found.architecture)
    return Description(
        path=path,
        what="checkpoint",
        dialect=dialect,
        tensors=sum(len(file.tensors) for file in files),
        parameters=_count_parameters(files),
        dtypes=_count_dtypes(files),
        random_weights=_is_random(files),
        fits=fits,
        config=config.name if config else "",
        problems=problems,
    )


def _unapplied(result: Resolution) -> int:
    return sum(max(1, len(problem.keys)) for problem in result.problems)


def _count_parameters(files: Iterable[SafetensorsFile]) -> int:
    return sum(math.prod(ref.shape) for file in files for ref in file.tensors.values())


def _count_dtypes(files: Iterable[SafetensorsFile]) -> dict[str, int]:
    return dict(Counter(ref.dtype for file in files for ref in file.tensors.values()))


def _is_random(files: Iterable[SafetensorsFile]) -> bool:
    return any(file.metadata.get(key) == "true" for file in files for key in RANDOM_KEYS)


def _range(values: Iterable[float]) -> Range | None:
    known = sorted(values)
    return (known[0], known[-1]) if known else None


def _span(values: Range | None) -> str:
    if values is None:
        return ""
    low, high = values
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"


def _list(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
