"""Writing adapter files: canonical ones for engines, and seeded random ones.

`engines/README.md` specifies the canonical adapter: `MODULE.lora_A` [r, in] and `MODULE.lora_B`
[out, r] in the engine's dtype, scale folded into B; strengths are given where it is loaded.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.errors import AdapterError
from wanexport.lora.adapter import (
    Adapter,
    at_full_strength,
    split_rest,
    stack_low_rank,
    stacked_ranks,
)
from wanexport.lora.delta import Delta
from wanexport.lora.targets import name_smallest
from wanexport.storage.dtypes import torch_dtype
from wanexport.storage.hashes import remember_sha256, sha256_file
from wanexport.storage.tensor_file import StoredTensor, write_safetensors
from wanrt.manifest.fields import Dtype
from wanrt.storage.dtypes import SAFETENSORS
from wanrt.terminal.text import first_and_more

if TYPE_CHECKING:
    import torch

__all__ = ["round_finite", "write_adapter"]

FORMAT, VERSION = "wanexport-adapter", "1"


def write_adapter(
    adapters: Sequence[Adapter],
    path: Path,
    dtype: Dtype,
    *,
    max_rank: int | None,
    targets: Collection[str],
    on_bytes: Callable[[int], None] = lambda _: None,
) -> int:
    """Write the canonical adapter of one or several adapters, one tensor in memory at a time.

    Args:
        adapters: what it is made of, at strength 1; ranks of one module are stacked. Leave out
            what is merged into the engine's weights (`split_rest`).
        path: where.
        dtype: the engine's.
        max_rank: the largest rank the engine takes; None if it takes any.
        targets: the modules the engine has inputs for.
        on_bytes: called with the number of bytes just written.

    Returns:
        The largest rank of a module.

    Raises:
        AdapterError: the engine can't take all of it, or a value overflows the dtype.
    """
    ranks = _check_carried(adapters, targets, max_rank)
    groups: dict[str, list[Delta]] = {module: [] for module in ranks}
    full = map(at_full_strength, adapters)
    for delta in (delta for adapter in full for delta in adapter.deltas):
        groups[delta.module].append(delta)
    specs = [
        StoredTensor(f"{module}.lora_{half}", SAFETENSORS[dtype], shape)
        for module, (out, width) in ((m, deltas[0].shape) for m, deltas in groups.items())
        for half, shape in (("A", (ranks[module], width)), ("B", (out, ranks[module])))
    ]
    rank = max(ranks.values())
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "rank": str(rank),
        "source_sha256": ",".join(sha256_file(adapter.path) for adapter in adapters),
        "random_weights": "true" if any(a.random_weights for a in adapters) else "false",
    }
    if skipped := sorted(key for adapter in adapters for key in adapter.skipped):
        metadata["skipped_keys"] = ",".join(skipped)
    stacked = chain.from_iterable(stack_low_rank(deltas) for deltas in groups.values())
    rounded = (round_finite(tensor, spec) for tensor, spec in zip(stacked, specs, strict=True))
    remember_sha256(path, write_safetensors(path, specs, rounded, metadata, on_bytes))
    return rank


def _check_carried(
    adapters: Sequence[Adapter], targets: Collection[str], max_rank: int | None
) -> dict[str, int]:
    """Return the stacked ranks if the engine can take all of every adapter."""
    if not any(adapter.deltas for adapter in adapters):
        raise AdapterError("there is no LoRA to convert", "name at least one file")
    _, rest = split_rest(adapters)
    if rest:
        parts = [part for adapter in rest for part in adapter.describe_parts()]
        raise AdapterError(
            f"{rest[0].path}: {first_and_more(parts)} can't be swapped, "
            f"because {_is(parts)} not low-rank",
            "build an engine with the file and --merge-rest, or with --mode merged",
        )
    ranks = stacked_ranks(adapters)
    absent = [module for module in ranks if module not in targets]
    if absent:
        path = next(a.path for a in adapters if absent[0] in a.ranks)
        raise AdapterError(
            f"{path}: the engine has no inputs for {first_and_more(absent)}",
            "build one that has: wanexport build --mode swappable --targets "
            f"{name_smallest([*targets, *absent]) or absent[0]}",
        )
    module = max(ranks, key=lambda name: ranks[name])
    if max_rank is not None and ranks[module] > max_rank:
        files = ", ".join(str(adapter.path) for adapter in adapters)
        raise AdapterError(
            f"{files}: rank {ranks[module]} at {module}, the engine takes up to {max_rank}",
            f"build the engine with --max-rank {ranks[module]}",
        )
    return ranks


def round_finite(tensor: torch.Tensor, spec: StoredTensor) -> torch.Tensor:
    """Return a tensor in the dtype it is stored in; AdapterError if a value overflows that."""
    import torch

    rounded = tensor.to(torch_dtype(spec.dtype))
    if not torch.isfinite(rounded).all():
        raise AdapterError(f"{spec.name} overflows {spec.dtype}", "use a bf16 or fp32 engine")
    return rounded


def _is(names: Sequence[str]) -> str:
    return "it is" if len(names) == 1 else "they are"
