"""How far training moved a parameter: read in blocks, never more than one matrix in memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from wanexport.errors import CheckpointError
from wanexport.storage.tensor_file import TensorRef
from wanexport.storage.values import one_thread

if TYPE_CHECKING:
    import torch

__all__ = ["Change", "measure_change"]

# Spacing of the values from 1 to 2 that a file's dtype has; fp64 is computed with in fp32.
SPACING = {"F64": 2.0**-23, "F32": 2.0**-23, "F16": 2.0**-10, "BF16": 2.0**-7}
EXPONENT = 0x7F800000  # of fp32


class Change(BaseModel):
    """The change of one parameter, from the base to the fine-tune.

    Args:
        parameter: diffusers' name.
        shape: the parameter's.
        energy: the sum of squares of all changes.
        weight_energy: that of the base's values.
        unchanged: the share of values that are equal in both.
        rounding: the variance that rounding to the checkpoints' dtype adds to a value, mean
            ulp^2 / 12; None where a checkpoint is quantised, and its rounding isn't that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameter: str
    shape: tuple[int, ...]
    energy: float
    weight_energy: float
    unchanged: float
    rounding: float | None

    @property
    def noise_edge(self) -> float | None:
        """The largest singular value that rounding alone would have.

        Of a random [m, n] matrix it is sigma (sqrt(m) + sqrt(n)): 2 sigma sqrt(n) if it is square.
        """
        if self.rounding is None or len(self.shape) != 2:
            return None
        return math.sqrt(self.rounding) * sum(map(math.sqrt, self.shape))

    @property
    def noise_share(self) -> float | None:
        """The share of the energy that rounding explains, 1 at most."""
        if self.rounding is None:
            return None
        noise = self.rounding * math.prod(self.shape)
        return min(1.0, noise / self.energy) if self.energy else 0.0


def measure_change(
    parameter: str, before: TensorRef, after: TensorRef, into: torch.Tensor | None = None
) -> Change:
    """Return the change of a parameter, in fp32.

    Args:
        parameter: diffusers' name.
        before: the base's tensor.
        after: the fine-tune's, of the same shape; where it is the base's own, nothing is read.
        into: an fp32 tensor of the parameter's shape, to be filled with the change.

    Raises:
        CheckpointError: a value isn't finite, or so large that its square isn't.
    """
    size, shape = math.prod(after.shape), after.shape
    if before == after:
        if into is not None:
            into.zero_()
        return Change(parameter=parameter, shape=shape, energy=0.0, weight_energy=0.0,
                      unchanged=1.0, rounding=0.0)  # fmt: skip
    energy = weights = spacing = 0.0
    equal = row = 0
    with one_thread():
        for old, new in _pair_blocks(before, after):
            spacing += _square_spacings(new)
            weights += _sum_squares(old)
            change = new.sub_(old)
            energy += _sum_squares(change)
            equal += change.numel() - int(change.count_nonzero())
            if into is not None:
                into[row : row + len(change)] = change
            row += len(change)
    if not math.isfinite(energy + weights):
        raise CheckpointError(
            f"{parameter} holds values that aren't finite, or far too large, in {before.path} or "
            f"{after.path}",
            "usually the training diverged: take an earlier save of it, or load the file again",
        )
    ulp = _find_spacing(before, after)
    return Change(
        parameter=parameter,
        shape=shape,
        energy=energy,
        weight_energy=weights,
        unchanged=equal / size,
        rounding=None if ulp is None else ulp**2 * spacing / size / 12,
    )


def _pair_blocks(
    before: TensorRef, after: TensorRef
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield both tensors in fp32 in blocks of the same rows; the blocks may be changed."""
    import torch

    olds = before.read_blocks()
    left = torch.empty(0)
    for block in after.read_blocks():
        new = block.to(torch.float32, copy=True)
        old = torch.empty_like(new)
        row = 0
        while row < len(new):
            if not len(left):
                left = next(olds)  # overwrites the one before, of which nothing is left
            count = min(len(left), len(new) - row)
            old[row : row + count] = left[:count]
            left, row = left[count:], row + count
        yield old, new


def _sum_squares(block: torch.Tensor) -> float:
    flat = block.flatten()
    return float(flat.dot(flat))


def _square_spacings(block: torch.Tensor) -> float:
    """Return the sum of (2^e)^2 of all values m 2^e, 1 <= m < 2: their exponent's bits alone."""
    import torch

    return _sum_squares((block.view(torch.int32) & EXPONENT).view(torch.float32))


def _find_spacing(before: TensorRef, after: TensorRef) -> float | None:
    """Return the spacing of values near 1 in the coarser of two dtypes."""
    if not (before.as_it_lies and after.as_it_lies):
        return None
    return max(SPACING.get(ref.dtype, math.inf) for ref in (before, after))
