"""How far two tensors are apart, by Polygraphy's comparators and as a relative L2 distance."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from wanexport.verify.compare import relative_l2

__all__ = ["Distance", "measure_distance"]


@dataclass(frozen=True)
class Distance:
    """How far an output of A is from B's.

    Args:
        name: the output, or the piece of the graph that it comes from.
        largest: the largest absolute difference.
        mean: the mean absolute difference.
        relative: the median of |A - B| / |B|; a mean would be that of the values nearest to zero.
        l2: |A - B| / |B| over all elements.
        psnr: the peak signal-to-noise ratio in dB, of A's largest value; infinite where both agree.
    """

    name: str
    largest: float
    mean: float
    relative: float
    l2: float
    psnr: float

    def within(self, tolerance: float) -> bool:
        """Tell whether the relative L2 distance is at most so much; one of NaN is not."""
        return self.l2 <= tolerance


def measure_distance(name: str, a: Tensor, b: Tensor) -> Distance:
    """Compare two tensors of as many elements; graphs for TensorRT keep a batch of 1 as rows."""
    from polygraphy.comparator import IterationResult, PsnrCompareFunc, SimpleCompareFunc

    a, b = a.float().reshape(b.shape), b.float()
    first, second = (
        IterationResult({name: value.numpy()}, runner_name=side)
        for side, value in (("A", a), ("B", b))
    )
    with _silent():
        simple = SimpleCompareFunc(check_error_stat="mean")(first, second)[name]
        psnr = PsnrCompareFunc()(first, second)[name].psnr
    l2 = 0.0 if torch.equal(a, b) else relative_l2(a, b)
    return Distance(
        name, simple.max_absdiff, simple.mean_absdiff, simple.median_reldiff, l2, float(psnr)
    )


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Polygraphy from printing its tables and histograms, and numpy from warning of NaN."""
    from polygraphy.logger import G_LOGGER

    with G_LOGGER.verbosity(G_LOGGER.CRITICAL), np.errstate(all="ignore"):
        yield
