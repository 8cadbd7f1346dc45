"""What a LoRA or checkpoint file holds, and what of it would be applied where."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from wanexport.checkpoint.gguf_file import open_weights
from wanexport.checkpoint.locate import locate_checkpoint
from wanexport.checkpoint.open import Checkpoint, open_checkpoint
from wanexport.checkpoint.quantized_ref import QuantizedRef
from wanexport.errors import AdapterError, CheckpointError
from wanexport.lora.adapter import RANDOM_KEYS
from wanexport.lora.delta import DORA_STRENGTH, Delta
from wanexport.lora.keys import ModuleIndex, find_unsupported, split_key
from wanexport.lora.resolve import LoraProblem, Resolution, resolve_file
from wanexport.model.config import Architecture, Config, list_configs, load_config
from wanexport.model.names import module_shapes
from wanexport.storage.tensor_file import SafetensorsFile
from wanrt.storage.hub import hub_file
from wanrt.terminal.text import counted, first_and_more

__all__ = ["Description", "describe_file", "format_description", "format_json"]

Range = tuple[float, float]
LISTED = 10
LISTED_PROBLEMS = 3
SIDES = {"A": 1, "B": 0}  # which axis of a low-rank matrix is its module's, by role


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
        nearest: whether that fits it only better than others do.
        architecture: a checkpoint's.
        scheme: how a checkpoint is quantised.
        stripped: what was taken off a checkpoint's names.
        left_aside: first words of a checkpoint's names that aren't the DiT's -> how many.
        differences: field of the architecture -> its value, and the configuration's.
        targets: the modules it changes, without their block's number -> how many.
        ranks: smallest and largest rank of a module.
        alphas: smallest and largest alpha, from metadata or alpha tensors.
        scales: smallest and largest factor on a product of two matrices.
        low_rank: what a separate or swappable engine can carry.
        rest: what can only be merged.
        problems: what can't be applied at all.
        notes: what people should know of a LoRA's scale.
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
    nearest: bool = False
    architecture: Architecture | None = None
    scheme: str | None = None
    stripped: tuple[str, ...] = ()
    left_aside: Mapping[str, int] = field(default_factory=dict)
    differences: Mapping[str, tuple[object, object]] = field(default_factory=dict)
    targets: dict[str, int] | None = None
    ranks: tuple[int, int] | None = None
    alphas: Range | None = None
    scales: Range | None = None
    low_rank: tuple[str, ...] = ()
    rest: tuple[str, ...] = ()
    problems: tuple[LoraProblem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether a build would refuse it: part of it can't be applied, or isn't finite."""
        return bool(self.problems)


def describe_file(path: Path, config: Config | None = None) -> Description:
    """Describe a LoRA or a checkpoint; keys that can't be applied are listed, not refused.

    Args:
        path: a safetensors file, or a checkpoint's folder.
        config: what it is meant for; without it, the shipped configuration that fits best.

    Raises:
        WanExportError: it can't be read.
    """
    location = locate_checkpoint(str(path))
    files = [open_weights(file) for file in location.files]
    names = [name for file in files for name in file.tensors]
    if any(split_key(name) or find_unsupported(name) for name in names):
        return _describe_lora(files[0], config)
    return _describe_checkpoint(location.path, files, config)


def format_json(description: Description) -> str:
    """Return a description as JSON, whose fields are those of `Description`."""
    return TypeAdapter(Description).dump_json(description, indent=1).decode()


def format_description(description: Description) -> str:
    """Return a description as text."""
    held = description
    dtypes = ", ".join(f"{count} {dtype}" for dtype, count in held.dtypes.items())
    values = {
        held.what: held.dialect,
        "tensors": f"{held.tensors:,} ({dtypes}), {held.parameters:,} parameters",
        "quantised": held.scheme or "",
        "prefixes": f"{', '.join(held.stripped)} taken off" if held.stripped else "",
        "left aside": ", ".join(f"{name} x{n}" for name, n in held.left_aside.items()),
        "weights": "random" if held.random_weights else "",
        "model": _sizes(held.architecture),
        "fits": ", ".join(held.fits) or _nothing(held),
        "differs": "; ".join(
            f"{key}: {here or 'none'}, not {there or 'none'}"
            for key, (here, there) in held.differences.items()
        ),
        "targets": ", ".join(f"{name} x{n}" for name, n in (held.targets or {}).items()),
        "rank": _span(held.ranks),
        "alpha": _span(held.alphas),
        "scale": _span(held.scales),
        "low-rank": counted(len(held.low_rank), "change") if held.low_rank else "",
        "merge only": first_and_more(held.rest, LISTED),
        "strength": DORA_STRENGTH if any("DoRA" in part for part in held.rest) else "",
    }
    cached = hub_file(held.path)
    title = f"{cached.id} (of the Hugging Face cache)" if cached else str(held.path)
    lines = [title, *(f"  {key:<10}  {value}" for key, value in values.items() if value)]
    lines += [f"  {note}" for note in held.notes]
    about = f" ({held.config})" if held.config else ""
    for problem in held.problems[:LISTED_PROBLEMS]:
        lines.append(f"  not applied{about}: {problem.message}")
        lines += [f"    hint: {problem.hint}"] if problem.hint else []
    if others := held.problems[LISTED_PROBLEMS:]:
        lines.append(f"  and {counted(len(others), 'more problem')}")
    return "\n".join(lines)


def _describe_lora(file: SafetensorsFile, config: Config | None) -> Description:
    configs = [config] if config else [load_config(name) for name in list_configs()]
    results: dict[Architecture, Resolution] = {}
    for candidate in configs:
        arch = candidate.architecture
        if arch not in results:
            results[arch] = resolve_file(file, module_shapes(arch))
    missed = {arch: (_unapplied(result), _misfit(file, arch)) for arch, result in results.items()}
    best = min(configs, key=lambda c: missed[c.architecture])
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
        nearest=config is None and bool(result.problems),
        targets=dict(suffixes),
        ranks=(min(ranks), max(ranks)) if ranks else None,
        alphas=_range(result.alphas),
        scales=_range(delta.scale for delta in products),
        low_rank=tuple(delta.title for delta in low_rank),
        rest=tuple(delta.title for delta in result.deltas if not delta.is_low_rank),
        problems=(*result.problems, *_find_bad_values(result.deltas)),
        notes=result.notes,
    )


def _find_bad_values(deltas: Iterable[Delta]) -> list[LoraProblem]:
    """Return the changes whose values aren't finite or would overflow; one is read at a time."""
    problems = []
    for delta in deltas:
        try:
            delta.check_values()
        except AdapterError as error:
            names = tuple(ref.name for ref in delta.tensors.values())
            problems.append(LoraProblem(names, str(error), error.hint))
    return problems


def _describe_checkpoint(
    path: Path, files: Sequence[SafetensorsFile], config: Config | None
) -> Description:
    dialect, architecture = "not a whole Wan2.1 DiT", None
    found: Checkpoint | None = None
    problems: tuple[LoraProblem, ...] = ()
    configs = [config] if config else [load_config(name) for name in list_configs()]
    try:
        found = open_checkpoint(str(path))
    except CheckpointError as error:
        problems = (LoraProblem((), str(error), error.hint),)
    else:
        dialect, architecture = f"{found.layout} names", found.architecture
    differing = {c.name: _differences(architecture, c.architecture) for c in configs}
    nearest = min(differing, key=lambda name: _distance(differing[name])) if architecture else ""
    return Description(
        path=path,
        what="checkpoint",
        dialect=dialect,
        tensors=sum(len(file.tensors) for file in files),
        parameters=_count_parameters(files),
        dtypes=_count_dtypes(files),
        random_weights=_is_random(files),
        fits=tuple(c.name for c in configs if architecture and not differing[c.name]),
        config=nearest,
        nearest=config is None,
        architecture=architecture,
        scheme=found.scheme() if found else None,
        stripped=found.stripped if found else (),
        left_aside=found.left_aside if found else {},
        differences=differing.get(nearest, {}),
        problems=problems,
    )


def _differences(
    found: Architecture | None, wanted: Architecture
) -> dict[str, tuple[object, object]]:
    """Return the fields that differ; added_kv_proj_dim follows from others."""
    if found is None:
        return {}
    here, there = (arch.model_dump(exclude={"added_kv_proj_dim"}) for arch in (found, wanted))
    return {key: (here[key], there[key]) for key in here if here[key] != there[key]}


def _distance(differences: Mapping[str, tuple[object, object]]) -> tuple[int, float]:
    """Return how many fields differ, and by how many factors of two."""
    factors = 0.0
    for pair in differences.values():
        numbers = [float(value) for value in pair if isinstance(value, int | float)]
        factors += abs(math.log2(numbers[0] / numbers[1])) if len(numbers) == 2 else 1.0
    return len(differences), factors


def _misfit(file: SafetensorsFile, arch: Architecture) -> float:
    """Return how many factors of two lie between a LoRA's matrices and a model's, in all."""
    index = ModuleIndex(module_shapes(arch))
    factors = 0.0
    for name, ref in file.tensors.items():
        key = split_key(name)
        if key is None or key.role not in SIDES or len(ref.shape) < 2:
            continue
        wanted = index.shapes.get(f"{index.find(key)}.weight", ())
        here = ref.shape[SIDES[key.role]]
        there = wanted[SIDES[key.role]] if len(wanted) > 1 else 0
        factors += abs(math.log2(here / there)) if here and there else 1.0
    return factors


def _unapplied(result: Resolution) -> int:
    return sum(max(1, len(problem.keys)) for problem in result.problems)


def _count_parameters(files: Iterable[SafetensorsFile]) -> int:
    return sum(math.prod(ref.shape) for file in files for ref in file.tensors.values())


def _count_dtypes(files: Iterable[SafetensorsFile]) -> dict[str, int]:
    refs = [ref for file in files for ref in file.tensors.values()]
    return dict(Counter(r.scheme if isinstance(r, QuantizedRef) else r.dtype for r in refs))


def _is_random(files: Iterable[SafetensorsFile]) -> bool:
    return any(file.metadata.get(key) == "true" for file in files for key in RANDOM_KEYS)


def _sizes(arch: Architecture | None) -> str:
    if arch is None:
        return ""
    image = (
        f"{arch.image_tokens} image tokens of {arch.image_dim}" if arch.image_dim else "no image"
    )
    return (
        f"{counted(arch.num_layers, 'layer')}, width {arch.width} in "
        f"{counted(arch.num_attention_heads, 'head')}, ffn {arch.ffn_dim}, channels "
        f"{arch.in_channels} to {arch.out_channels}, text {arch.text_dim}, {image}"
    )


def _nothing(held: Description) -> str:
    if not held.config:
        return "no configuration"
    return (
        f"no configuration; the nearest is {held.config}" if held.nearest else f"not {held.config}"
    )


def _range(values: Iterable[float]) -> Range | None:
    known = sorted(values)
    return (known[0], known[-1]) if known else None


def _span(values: Range | None) -> str:
    if values is None:
        return ""
    low, high = values
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
