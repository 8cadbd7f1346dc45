"""Which of a machine's GPUs CUDA's first device is, by what CUDA_VISIBLE_DEVICES says."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["ListedGpu", "choose_gpu"]


@dataclass(frozen=True)
class ListedGpu:
    """A GPU as the driver lists it, in the order of PCI buses."""

    uuid: str
    name: str


def choose_gpu(gpus: Sequence[ListedGpu]) -> int | None:
    """Return the place in the driver's list of the GPU that CUDA calls 0; None if it isn't known.

    CUDA_VISIBLE_DEVICES is understood as an index or as GPU-UUID, which may be cut short as long as
    it is unique; the first of a list counts. Not known are MIG instances, and an index on a machine
    of several models: CUDA puts the fastest first unless CUDA_DEVICE_ORDER is PCI_BUS_ID.
    https://docs.nvidia.com/cuda/cuda-c-programming-guide/#cuda-environment-variables
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0].strip()
    if first.startswith("GPU-"):
        matching = [i for i, gpu in enumerate(gpus) if gpu.uuid.startswith(first)]
        return matching[0] if len(matching) == 1 else None
    by_bus = os.environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    if not first.isdecimal() or int(first) >= len(gpus):
        return None
    return int(first) if by_bus or len({gpu.name for gpu in gpus}) == 1 else None
