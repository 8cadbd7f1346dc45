"""Checkpoints of random weights that behave like weights: for tests, the demo and benchmarks.

Linear weights are N(0, 1/fan_in), norms near 1, biases small but not zero, so unit-normal inputs
stay finite through all blocks. No value is repeated within a tensor. Each
tensor has its own stream, seeded with (seed, name), so it doesn't depend on the other tensors, the
shards or the number of threads. The stream is PyTorch's; another release or another kind of CPU
may draw other values.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from wanexport.checkpoint.locate import INDEX_SUFFIX, WEIGHTS_NAME
from wanexport.checkpoint.open import open_checkpoint
from wanexport.errors import CheckpointError, WanExportError
from wanexport.model.config import Architecture
from wanexport.model.names import module_shapes, to_original
from wanexport.storage.drafts import draft_folder, place_draft, sweep_drafts
from wanexport.storage.dtypes import torch_dtype
from wanexport.storage.locks import locked
from wanexport.storage.tensor_file import (
    StoredTensor,
    write_safetensors,
)
from wanrt.machine.cores import usable_cores
from wanrt.manifest.fields import Dtype
from wanrt.storage.dtypes import SAFETENSORS
from wanrt.storage.files import atomic_file

if TYPE_CHECKING:
    import torch

__all__ = ["checkpoint_specs", "ensure_demo_checkpoint", "make_tensors", "write_checkpoint"]

Layout = Literal["diffusers", "original"]

RECIPE = 1  # raise it when the same arguments come to make other values
RECIPE_NAME = "recipe.json"
INDEX_NAME = f"{WEIGHTS_NAME}{INDEX_SUFFIX}"
RANDOM_METADATA = {"format": "pt", "wanexport.random": "true"}
BLOCK = 1 << 20  # values drawn at a time; small enough to stay in a core's cache


def checkpoint_specs(arch: Architecture, dtype: Dtype) -> list[StoredTensor]:
    """Return the tensors of a checkpoint under their diffusers names, in the model's order."""
    stored = SAFETENSORS[dtype]
    return [StoredTensor(name, stored, shape) for name, shape in module_shapes(arch).items()]


def write_checkpoint(
    folder: Path,
    arch: Architecture,
    dtype: Dtype,
    seed: int,
    *,
    shard_bytes: int = 5 << 30,
    layout: Layout = "diffusers",
    on_bytes: Callable[[int], None] = lambda _: None,
) -> None:
    """Write a sharded checkpoint of random weights: shards, then the index, then config.json.

    At most two tensors are in memory. Equal seeds give equal weights in both layouts; a lower
    precision is the rounding of the higher one.

    Args:
        folder: where; made if it is missing.
        arch: the architecture.
        dtype: in which all tensors are stored.
        seed: picks the weights.
        shard_bytes: how large a shard may grow, unless one tensor alone is larger.
        layout: diffusers' names and config.json, or those of Wan's original checkpoints.
        on_bytes: called with the number of bytes just written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards = _split(checkpoint_specs(arch, dtype), shard_bytes)
    weight_map = {}
    for number, specs in enumerate(shards, start=1):
        file = f"{WEIGHTS_NAME}-{number:05}-of-{len(shards):05}.safetensors"
        stored = [_rename(spec, layout) for spec in specs]
        with contextlib.closing(make_tensors(specs, seed)) as tensors:
            write_safetensors(folder / file, stored, tensors, RANDOM_METADATA, on_bytes)
        weight_map.update({spec.name: file for spec in stored})
    total = sum(spec.nbytes for specs in shards for spec in specs)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / INDEX_NAME, index)
    _write_json(folder / "config.json", _model_config(arch, layout))


def ensure_demo_checkpoint(
    folder: Path,
    arch: Architecture,
    dtype: Dtype,
    seed: int,
    on_bytes: Callable[[int], None] = lambda _: None,
) -> bool:
    """Make a checkpoint of random weights unless the folder already holds exactly that one.

    It appears whole or not at all. Of two processes one makes it and the other waits and uses it.
    What an earlier recipe or an accident left in the folder is replaced; engines that link to its
    files keep their bytes.

    Returns:
        Whether it was made now.

    Raises:
        CheckpointError: the folder exists and wasn't made by this function, or can't be made.
    """
    recipe: dict[str, object] = {
        "recipe": RECIPE,
        "seed": seed,
        "dtype": dtype,
        "architecture": arch.model_dump(mode="json"),
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with locked(folder.with_name(f".{folder.name}.lock")):
            if _is_whole(folder, arch, recipe):
                return False
            if folder.exists() and not (folder / RECIPE_NAME).is_file():
                raise CheckpointError(
                    f"{folder} exists and isn't a checkpoint of random weights",
                    "move it away, or name it with --base",
                )
            sweep_drafts(folder.parent)
            with draft_folder(folder.parent, folder.name) as draft:
                _write_json(draft / RECIPE_NAME, recipe)
                write_checkpoint(draft, arch, dtype, seed, on_bytes=on_bytes)
                place_draft(draft, folder, replace=True)
    except OSError as error:
        raise CheckpointError(f"{folder} can't be made: {error.strerror or error}") from None
    return True


def make_tensors(specs: Iterable[StoredTensor], seed: int) -> Generator[torch.Tensor]:
    """Draw tensors one after the other; the next is drawn while the last one is being written."""
    ahead: deque[tuple[torch.Tensor, list[Future[None]]]] = deque()
    pool = ThreadPoolExecutor(usable_cores())
    try:
        for spec in specs:
            ahead.append(_start(spec, seed, pool))
            if len(ahead) > 1:
                yield _finish(*ahead.popleft())
        while ahead:
            yield _finish(*ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


def _start(
    spec: StoredTensor, seed: int, pool: ThreadPoolExecutor
) -> tuple[torch.Tensor, list[Future[None]]]:
    import torch

    tensor = torch.empty(spec.shape, dtype=torch_dtype(spec.dtype))
    mean, std = _distribution(spec)
    digest = hashlib.sha256(f"{seed}:{spec.name}".encode()).digest()
    stream = int.from_bytes(digest[:7], "little")
    blocks = enumerate(torch.split(tensor.view(-1), BLOCK))
    jobs = [pool.submit(_draw, part, mean, std, stream + i) for i, part in blocks]
    return tensor, jobs


def _finish(tensor: torch.Tensor, jobs: Sequence[Future[None]]) -> torch.Tensor:
    for job in jobs:
        job.result()
    return tensor


_scratch = threading.local()


def _draw(part: torch.Tensor, mean: float, std: float, seed: int) -> None:
    """Fill a part of a tensor with N(mean, std), drawn in fp32 and rounded once."""
    import torch

    if not hasattr(_scratch, "values"):
        _scratch.values = torch.empty(BLOCK)
    values: torch.Tensor = _scratch.values[: part.numel()]
    values.normal_(mean, std, generator=torch.Generator().manual_seed(seed))
    part.copy_(values)


def _distribution(spec: StoredTensor) -> tuple[float, float]:
    """Return mean and standard deviation of a tensor's values."""
    if spec.name.endswith("scale_shift_table"):
        return 0.0, spec.shape[-1] ** -0.5
    if spec.name.endswith("pos_embed"):
        return 0.0, 0.02
    if len(spec.shape) > 1:
        return 0.0, math.prod(spec.shape[1:]) ** -0.5
    return (1.0 if spec.name.endswith(".weight") else 0.0), 0.02


def _rename(spec: StoredTensor, layout: Layout) -> StoredTensor:
    name = to_original(spec.name) if layout == "original" else spec.name
    assert name is not None
    return replace(spec, name=name)


def _split(specs: Sequence[StoredTensor], shard_bytes: int) -> list[list[StoredTensor]]:
    shards: list[list[StoredTensor]] = [[]]
    room = shard_bytes
    for spec in specs:
        if shards[-1] and spec.nbytes > room:
            shards.append([])
            room = shard_bytes
        shards[-1].append(spec)
        room -= spec.nbytes
    return shards


def _model_config(arch: Architecture, layout: Layout) -> dict[str, object]:
    """Return config.json's content, as diffusers or as Wan's original repository writes it."""
    if layout == "diffusers":
        return {
            "_class_name": "WanTransformer3DModel",
            **arch.model_dump(mode="json"),
            "patch_size": [1, 2, 2],
            "cross_attn_norm": True,
            "qk_norm": "rms_norm_across_heads",
        }
    kind = "t2v" if arch.image_dim is None else "flf2v" if arch.pos_embed_seq_len else "i2v"
    return {
        "_class_name": "WanModel",
        "model_type": kind,
        "dim": arch.width,
        "eps": arch.eps,
        "ffn_dim": arch.ffn_dim,
        "freq_dim": arch.freq_dim,
        "in_dim": arch.in_channels,
        "num_heads": arch.num_attention_heads,
        "num_layers": arch.num_layers,
        "out_dim": arch.out_channels,
        "text_len": 512,
    }


def _is_whole(folder: Path, arch: Architecture, recipe: dict[str, object]) -> bool:
    try:
        if json.loads((folder / RECIPE_NAME).read_bytes()) != recipe:
            return False
        open_checkpoint(str(folder), arch)
        return all((folder / name).is_file() for name in (INDEX_NAME, "config.json"))
    except (OSError, ValueError, WanExportError):
        return False


def _write_json(path: Path, content: dict[str, object]) -> None:
    with atomic_file(path) as file:
        file.write(json.dumps(content, indent=2).encode() + b"\n")
