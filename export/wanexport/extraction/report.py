"""What an extraction found: extract.json, and what the terminal shows of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from wanexport.extraction.change import Change
from wanexport.extraction.parts import Part
from wanexport.lora.targets import TARGET_SETS
from wanrt.storage.regular import JSON_BYTES, read_regular

__all__ = ["ExtractReport", "FileReport", "ModuleReport", "Outside", "read_report"]

REPORT = "extract.json"
# A parameter's group, the first whose patterns it fits.
GROUPS = {
    "biases": ("*.bias",),
    "norms": ("*norm*.weight",),
    "modulation tables": ("*scale_shift_table",),
    **{name: TARGET_SETS[name] for name in ("cross-attention", "self-attention", "ffn")},
    "embedders and head": ("*",),
}


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModuleReport(_Strict):
    """One target.

    Args:
        module: diffusers' name.
        shape: of its weight, [out, in].
        energy: the sum of squares of its change.
        change: the norm of the change over that of the base's weight.
        unchanged: the share of its weights that are equal in base and fine-tune.
        noise_edge: the largest singular value that rounding alone would have, 2 sqrt(mean ulp^2 /
            12) sqrt(n) of an n x n weight; None of a quantised one.
        noise_share: the share of the energy that rounding explains, by the same model.
        above_noise: how many of the singular values that were computed are larger than the edge.
        captured: rank -> the share of the energy that the file of that rank holds.
    """

    module: str
    shape: tuple[int, int]
    energy: float
    change: float
    unchanged: float
    noise_edge: float | None
    noise_share: float | None
    above_noise: int | None
    captured: dict[int, float]


class Outside(_Strict):
    """A group of parameters that aren't targets.

    Args:
        group: norms, biases, and the like; of linear layers, the set that they are of.
        parameters: how many there are.
        changed: how many of them did change.
        energy: the sum of squares of their changes.
        share: of the energy of the whole fine-tune's change.
    """

    group: str
    parameters: int
    changed: int
    energy: float
    share: float


class FileReport(_Strict):
    """The LoRA of one rank.

    Args:
        rank: of every module.
        file: its name in the folder.
        bytes: its size.
        sha256: of its bytes.
        captured: the share of all targets' energy that it holds.
        captured_of_all: the share of the whole change's, outside of the targets included.
    """

    rank: int
    file: str
    bytes: int
    sha256: str
    captured: float
    captured_of_all: float


class ExtractReport(_Strict):
    """An extraction: what from, what came out, and what no file holds.

    Args:
        inputs: all that decides what the files hold; equal inputs are never extracted twice.
        base: the path of the base.
        finetuned: that of the fine-tune.
        dtype: of the files.
        targets: the set, or the patterns that were asked for.
        random_weights: whether a checkpoint's writer says that its weights are random.
        files: one a rank.
        modules: the targets, in the model's order; one that didn't change is in no file.
        outside: the rest of the fine-tune.
        parameters: the changes outside, one by one, the largest first.
        notes: what people should know of the numbers.
    """

    inputs: dict[str, str]
    base: str
    finetuned: str
    dtype: str
    targets: str
    random_weights: bool
    files: tuple[FileReport, ...]
    modules: tuple[ModuleReport, ...]
    outside: tuple[Outside, ...]
    parameters: tuple[Change, ...]
    notes: tuple[str, ...]

    @property
    def outside_share(self) -> float:
        """The share of the change's energy that no target has."""
        return sum(group.share for group in self.outside)


def read_report(folder: Path) -> ExtractReport | None:
    """Return a folder's report; None without a readable one."""
    try:
        return ExtractReport.model_validate_json(read_regular(folder / REPORT, JSON_BYTES))
    except (OSError, ValidationError):
        return None


def describe_module(module: str, part: Part, ranks: Sequence[int]) -> ModuleReport:
    """Return what a part says of its module."""
    change, values = part.change, part.values
    edge = change.noise_edge
    out, width = change.shape
    return ModuleReport(
        module=module,
        shape=(out, width),
        energy=change.energy,
        change=(change.energy / change.weight_energy) ** 0.5 if change.weight_energy else 0.0,
        unchanged=change.unchanged,
        noise_edge=edge,
        noise_share=change.noise_share,
        above_noise=None if edge is None else sum(value > edge for value in values),
        captured={rank: _captured(values[:rank], change.energy) for rank in ranks},
    )


def sum_outside(changes: Iterable[Change], total: float) -> tuple[Outside, ...]:
    """Return the groups of parameters that aren't targets; `total` is the whole change's energy."""
    groups: dict[str, list[Change]] = {name: [] for name in GROUPS}
    for change in changes:
        groups[_find_group(change.parameter)].append(change)
    return tuple(
        Outside(
            group=name,
            parameters=len(held),
            changed=sum(change.energy > 0 for change in held),
            energy=sum(change.energy for change in held),
            share=sum(change.energy for change in held) / total if total else 0.0,
        )
        for name, held in groups.items()
        if held
    )


def captured_by(modules: Iterable[ModuleReport], rank: int) -> float:
    """Return the energy that a rank holds of several modules together."""
    return sum(one.energy * one.captured[rank] for one in modules)


def _captured(values: Sequence[float], energy: float) -> float:
    return min(1.0, sum(value**2 for value in values) / energy) if energy else 1.0


def _find_group(parameter: str) -> str:
    return next(
        name
        for name, globs in GROUPS.items()
        if any(fnmatchcase(parameter, glob) for glob in globs)
    )


def total_energy(parts: Mapping[str, Part]) -> float:
    """Return the sum of squares of all changes."""
    return sum(part.change.energy for part in parts.values())
