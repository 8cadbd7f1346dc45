"""LoRA files that others load: diffusers, ComfyUI, and this project's --lora.

Names are the original repository's after `diffusion_model.`, with PEFT's lora_A and lora_B: the
one dialect that ComfyUI's key map (comfy/lora.py, `model_lora_keys_unet`) and diffusers'
converter (`_convert_non_diffusers_wan_lora_to_diffusers`, 0.42) both read. The scale is 1: alpha is
the rank, which PEFT's settings in the header say, as diffusers writes them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.lora.scales import DIFFUSERS_KEY, DIFFUSERS_PREFIX
from wanexport.model.names import to_original
from wanexport.storage.hashes import remember_sha256
from wanexport.storage.tensor_file import StoredTensor, write_safetensors

if TYPE_CHECKING:
    import torch

__all__ = ["Carried", "lora_bytes", "write_lora"]

PREFIX = "diffusion_model."


@dataclass(frozen=True)
class Carried:
    """A module's factors in a file.

    Args:
        shape: of its weight, [out, in].
        rank: of the factors.
        read: returns A [r, in] and B transposed [r, out], in the file's dtype.
    """

    shape: tuple[int, int]
    rank: int
    read: Callable[[], tuple[torch.Tensor, torch.Tensor]]


def write_lora(
    path: Path,
    carried: Mapping[str, Carried],
    dtype: str,
    metadata: Mapping[str, str],
    others: Mapping[StoredTensor, Callable[[], torch.Tensor]] | None = None,
) -> str:
    """Write a LoRA file, a module at a time, and return its SHA-256.

    Args:
        path: where; it appears whole or not at all.
        carried: diffusers' module name -> its factors.
        dtype: of A and B, a weight file's name of it.
        metadata: what else the header says.
        others: tensors that aren't factors, under their names in the file.
    """
    specs = []
    for module, one in carried.items():
        out, width = one.shape
        stem = f"{PREFIX}{to_original(module)}"
        specs.append(StoredTensor(f"{stem}.lora_A.weight", dtype, (one.rank, width)))
        specs.append(StoredTensor(f"{stem}.lora_B.weight", dtype, (out, one.rank)))
    others = others or {}
    header = {
        "format": "pt",
        DIFFUSERS_KEY: _settings({module: one.rank for module, one in carried.items()}),
        **metadata,
    }
    digest = write_safetensors(path, [*specs, *others], _tensors(carried, others), header)
    remember_sha256(path, digest)
    return digest


def lora_bytes(shapes: Mapping[str, tuple[int, ...]], rank: int, itemsize: int) -> int:
    """Return the bytes of a file's factors."""
    return rank * itemsize * sum(map(sum, shapes.values()))


def _tensors(
    carried: Mapping[str, Carried], others: Mapping[StoredTensor, Callable[[], torch.Tensor]]
) -> Iterator[torch.Tensor]:
    for one in carried.values():
        down, up = one.read()
        yield down
        yield up.T.contiguous()
    for read in others.values():
        yield read()


def _settings(ranks: Mapping[str, int]) -> str:
    """Return PEFT's settings; modules of another rank than the usual one are named."""
    usual = Counter(ranks.values()).most_common(1)[0][0]
    unusual = {module: rank for module, rank in ranks.items() if rank != usual}
    config: dict[str, object] = {
        "peft_type": "LORA",
        "r": usual,
        "lora_alpha": usual,
        "target_modules": sorted(ranks),
    }
    if unusual:
        config |= {"rank_pattern": unusual, "alpha_pattern": unusual}
    return json.dumps({f"{DIFFUSERS_PREFIX}{k}": v for k, v in config.items()}, sort_keys=True)
