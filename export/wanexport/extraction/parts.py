"""What an extraction has done so far: a file per parameter, whole or not there.

A killed extraction goes on from them. Whoever reads one compares what it was made of.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ValidationError

from wanexport.errors import CheckpointError
from wanexport.extraction.change import Change
from wanexport.storage.tensor_file import (
    SafetensorsFile,
    StoredTensor,
    TensorRef,
    open_safetensors,
    write_safetensors,
)

if TYPE_CHECKING:
    import torch

__all__ = ["Part", "Parts"]

DOWN, UP = "down", "up"


@dataclass(frozen=True)
class Part:
    """One parameter's share of the work.

    Args:
        change: how far it moved.
        values: the singular values that were computed; none of what isn't a target or didn't
            change.
        down: A of the largest rank, [r, in], as files hold it; None where there are no values.
        up: B, transposed: [r, out].
    """

    change: Change
    values: tuple[float, ...]
    down: TensorRef | None
    up: TensorRef | None


@dataclass(frozen=True)
class Parts:
    """A folder of parts.

    Args:
        folder: where.
        inputs: a hash of all that decides what they hold; others' parts don't count.
        dtype: of the factors, a weight file's name of it.
    """

    folder: Path
    inputs: str
    dtype: str

    def find(self, parameter: str) -> Part | None:
        """Return a parameter's part, if it is there, whole, and made of the same inputs."""
        try:
            file = open_safetensors(self._path(parameter))
            if file.metadata.get("inputs") != self.inputs:
                return None
            change = Change.model_validate_json(file.metadata["change"])
            return _read(file, change)
        except (CheckpointError, ValidationError, KeyError, ValueError):
            return None

    def write(
        self, change: Change, values: Sequence[float], tensors: Sequence[torch.Tensor]
    ) -> Part:
        """Write a parameter's part: its change, and A and B transposed, in the files' dtype."""
        names = (DOWN, UP)[: len(tensors)]
        shapes = [(len(tensor), tensor.shape[1]) for tensor in tensors]
        specs = [StoredTensor(n, self.dtype, s) for n, s in zip(names, shapes, strict=True)]
        metadata = {
            "inputs": self.inputs,
            "change": change.model_dump_json(),
            "values": " ".join(map(repr, values)),
        }
        path = self._path(change.parameter)
        write_safetensors(path, specs, tensors, metadata)
        return _read(open_safetensors(path), change)

    def _path(self, parameter: str) -> Path:
        return self.folder / f"{parameter}.safetensors"


def _read(file: SafetensorsFile, change: Change) -> Part:
    values = tuple(map(float, file.metadata["values"].split()))
    if not values:
        return Part(change, (), None, None)
    return Part(change, values, file.tensors[DOWN], file.tensors[UP])
