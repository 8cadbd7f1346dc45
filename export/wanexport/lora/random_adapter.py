"""Seeded adapters of random values, for engines that are made without a LoRA file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.lora.scales import DIFFUSERS_KEY, DIFFUSERS_PREFIX
from wanexport.storage.tensor_file import StoredTensor, write_safetensors
from wanrt.manifest.fields import Dtype
from wanrt.storage.dtypes import SAFETENSORS

if TYPE_CHECKING:
    import torch

from wanexport.lora.canonical import round_finite

__all__ = ["seeded_adapter"]

# A seeded adapter moves the output of a random weight of N(0, 1/in) by this part of its norm.
EFFECT = 0.07


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
    stored = SAFETENSORS[dtype]
    specs, spreads = [], []
    for module in targets:
        out, width = shapes[f"{module}.weight"]
        specs.append(StoredTensor(f"transformer.{module}.lora_A.weight", stored, (rank, width)))
        specs.append(StoredTensor(f"transformer.{module}.lora_B.weight", stored, (out, rank)))
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


def _draw(spec: StoredTensor, std: float, seed: int) -> torch.Tensor:
    import torch

    digest = hashlib.sha256(f"{seed}:{spec.name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "little"))
    return round_finite(torch.empty(spec.shape).normal_(0.0, std, generator=generator), spec)
