"""What LoRA files and checkpoints alike are described by: counts of their tensors."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from wanexport.checkpoint.quantized_ref import QuantizedRef
from wanexport.lora.adapter import RANDOM_KEYS
from wanexport.storage.tensor_file import SafetensorsFile

__all__ = ["count_dtypes", "count_parameters", "is_random"]


def count_parameters(files: Sequence[SafetensorsFile]) -> int:
    """Return how many values files hold."""
    return sum(math.prod(ref.shape) for file in files for ref in file.tensors.values())


def count_dtypes(files: Sequence[SafetensorsFile]) -> dict[str, int]:
    """Return how many tensors there are of each dtype, or of each GGUF kind."""
    refs = [ref for file in files for ref in file.tensors.values()]
    return dict(Counter(r.scheme if isinstance(r, QuantizedRef) else r.dtype for r in refs))


def is_random(files: Sequence[SafetensorsFile]) -> bool:
    """Tell whether a file's writer says that its values are random."""
    return any(file.metadata.get(key) == "true" for file in files for key in RANDOM_KEYS)
