"""What `wanexport inspect` finds out about a file, as one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter

from wanexport.lora.problems import LoraProblem
from wanexport.model.config import Architecture

__all__ = ["Description", "Range", "format_json"]

Range = tuple[float, float]


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
        fits: the configurations it fits in full, the shipped ones and the one that was asked about.
        config: the configuration that the following is about; empty if none is near.
        nearest: whether that fits it only better than others do.
        architecture: a checkpoint's.
        scheme: how a checkpoint is quantised.
        stripped: what was taken off its names.
        left_aside: first words of names that aren't the DiT's -> how many.
        differences: field of the architecture -> its value, and the configuration's.
        targets: the modules it changes, without their block's number -> how many.
        ranks: smallest and largest rank of a module.
        alphas: smallest and largest alpha, from metadata or alpha tensors.
        scales: smallest and largest factor on a product of two matrices.
        low_rank: what a separate or swappable engine can carry.
        rest: what can only be merged.
        skipped: keys that are left out, as the flags say.
        values_read: whether its values were looked at, too, and not only its headers.
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
    skipped: tuple[str, ...] = ()
    values_read: bool = False
    problems: tuple[LoraProblem, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_refused(self) -> bool:
        """Whether a build would refuse it: part of it can't be applied, or isn't finite."""
        return bool(self.problems)


def format_json(description: Description) -> str:
    """Return a description as JSON, whose fields are those of `Description`."""
    return TypeAdapter(Description).dump_json(description, indent=1).decode()
