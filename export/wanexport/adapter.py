"""Adapter files that are written here: canonical ones for engines, seeded ones of random values.

`engines/README.md` specifies the canonical adapter: `MODULE.lora_A` [r, in] and `MODULE.lora_B`
[out, r] in the engine's dtype, scale and strength folded into B.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.config import Architecture, Dtype
from wanexport.deltas import Delta
from wanexport.errors import AdapterError
from wanexport.hashing import remember_sha256, sha256_file
from wanexport.lora import Adapter, split_rest, stack_low_rank, stacked_ranks
from wanexport.scales import DIFFUSERS_KEY, DIFFUSERS_PREFIX
from wanexport.tensors import SAFETENSORS_DTYPE, TensorSpec, write_safetensors

if TYPE_CHECKING:
    import torch

__all__ = ["cross_attention_targets", "seeded_adapter", "write_adapter"]

FORMAT, VERSION = "wanexport-adapter", "1"
TEXT_TARGETS = ("attn2.to_q", "attn2.to_k", "attn2.to_v", "attn2.to_out.0")
IMAGE_TARGETS = ("attn2.add_k_proj", "attn2.add_v_proj")
# A seeded adapter moves the output of a random weight of N(0, 1/in) by this part of its norm.
EFFECT = 0.07


def cross_attention_targets(arch: Architecture) -> tuple[str, ...]:
    """Return the modules that an adapter is made for by default, in the model's order."""
    names = TEXT_TARGETS + (IMAGE_TARGETS if arch.image_dim is not None else ())
    return tuple(f"blocks.{i}.{name}" for i in range(arch.num_layers) for name in names)


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
        adapters: what it is made of; ranks of one module are stacked. Leave out what is merged
            into the engine's weights (`split_rest`).
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
    for delta in (delta for adapter in adapters for delta in adapter.deltas):
        groups[delta.module].append(delta)
    specs = [
        TensorSpec(f"{module}.lora_{half}", SAFETENSORS_DTYPE[dtype], shape)
        for module, (out, width) in ((m, deltas[0].shape) for m, deltas in groups.items())
        for half, shape in (("A", (ranks[module], width)), ("B", (out, ranks[module])))
    ]
    rank = max(ranks.values())
    metadata = {
        "format": FORMAT,
        "version": VERSION,
        "rank": str(rank),
        "source_sha256": ",".join(sha256_file(adapter.path) for adapter in adapters),
        "strengths": ",".join(repr(adapter.strength) for adapter in adapters),
        "random_weights": "true" if any(a.random_weights for a in adapters) else "false",
    }
    stacked = chain.from_iterable(stack_low_rank(deltas) for deltas in groups.values())
    rounded = (_round(tensor, spec) for tensor, spec in zip(stacked, specs, strict=True))
    remember_sha256(path, write_safetensors(path, specs, rounded, metadata, on_bytes))
    return rank


def seeded_adapter(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    targets: Sequence[str],
    rank: int,
    seed: int,
    dtype: Dtype = "bf16",
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a LoRA of random values, in diffusers' dialect, that visibly changes the output.

    A is N(0, 1/in) and B is N(0, c^2/rank), so the effect doesn't depend on the rank. Every tensor
    has its own stream, seeded with (seed, name). `on_bytes` is called with the bytes just written.
    """
    stored = SAFETENSORS_DTYPE[dtype]
    specs, spreads = [], []
    for module in targets:
        out, width = shapes[f"{module}.weight"]
        specs.append(TensorSpec(f"transformer.{module}.lora_A.weight", stored, (rank, width)))
        specs.append(TensorSpec(f"transformer.{module}.lora_B.weight", stored, (out, rank)))
        spreads += [width**-0.5, EFFECT * rank**-0.5]
    config = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": rank,
        "target_modules": sorted(targets),
    }
    settings = {f"{DIFFUSERS_PREFIX}{key}": value for key, value in config.items()}
    metadata = {
        "format": "pt",
        "wanexport.random": "true",
        DIFFUSERS_KEY: json.dumps(settings, sort_keys=True),
    }
    tensors = (_draw(spec, std, seed) for spec, std in zip(specs, spreads, strict=True))
    write_safetensors(path, specs, tensors, metadata, on_bytes)


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
            f"{rest[0].path}: {_some(parts)} can't be swapped, because {_is(parts)} not low-rank",
            "build an engine with the file and --merge-rest, or with --mode merged",
        )
    ranks = stacked_ranks(adapters)
    absent = [module for module in ranks if module not in targets]
    if absent:
        path = next(a.path for a in adapters if absent[0] in a.ranks)
        raise AdapterError(
            f"{path}: the engine has no inputs for {_some(absent)}",
            "build an engine with this file, which takes adapters of the same modules",
        )
    module = max(ranks, key=lambda name: ranks[name])
    if max_rank is not None and ranks[module] > max_rank:
        files = ", ".join(str(adapter.path) for adapter in adapters)
        raise AdapterError(
            f"{files}: rank {ranks[module]} at {module}, the engine takes up to {max_rank}",
            f"build the engine with --max-rank {ranks[module]}",
        )
    return ranks


def _round(tensor: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    import torch

    dtypes = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    rounded = tensor.to(dtypes[spec.dtype])
    if not torch.isfinite(rounded).all():
        raise AdapterError(f"{spec.name} overflows {spec.dtype}", "use a bf16 or fp32 engine")
    return rounded


def _draw(spec: TensorSpec, std: float, seed: int) -> torch.Tensor:
    import torch

    digest = hashlib.sha256(f"{seed}:{spec.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return _round(torch.empty(spec.shape).normal_(0.0, std, generator=generator), spec)


def _some(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1} more" if len(names) > 1 else "")


def _is(names: Sequence[str]) -> str:
    return "it is" if len(names) == 1 else "they are"
