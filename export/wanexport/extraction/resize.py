"""A LoRA at a smaller rank: the leading part of each of its products."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

import torch
from pydantic import BaseModel, ConfigDict

from wanexport import __version__
from wanexport.errors import AdapterError, BuildError, UsageError
from wanexport.extraction.decompose import Factors, decompose, decompose_product
from wanexport.extraction.lora_file import PREFIX, Carried, lora_bytes, write_lora
from wanexport.lora.adapter import Adapter
from wanexport.lora.canonical import round_finite
from wanexport.lora.delta import Delta
from wanexport.lora.find import find_lora, parse_lora, resolve_adapters
from wanexport.lora.fits import find_fits
from wanexport.model.config import load_config
from wanexport.model.names import module_shapes, to_original
from wanexport.storage.disk import check_disk
from wanexport.storage.dtypes import ENGINE_DTYPES, itemsize
from wanexport.storage.hashes import hash_files
from wanexport.storage.tensor_file import StoredTensor, open_safetensors
from wanrt.manifest.fields import Dtype
from wanrt.storage.dtypes import SAFETENSORS
from wanrt.storage.files import check_writable
from wanrt.terminal.progress import Reporter
from wanrt.terminal.text import first_and_more

__all__ = ["ResizeReport", "resize_lora"]

MADE: Final = "wanexport.resize"
WHOLE = {".weight": "diff", ".bias": "diff_b", "": "diff_m"}
"""What a change of all values is called in a file, by the end of its parameter's name."""


class ResizeReport(BaseModel):
    """What is left of a LoRA.

    Args:
        file: what was written.
        rank: of every module that had more; others keep theirs.
        dtype: of the file.
        captured: module -> the share of its change's sum of squares that the file holds.
        total: that share over all modules together.
        kept: changes that aren't low-rank, and are in the file as they were.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    rank: int
    dtype: str
    captured: dict[str, float]
    total: float
    kept: tuple[str, ...]


@dataclass
class _Module:
    """One product, and what was found of it once it is written."""

    delta: Delta
    rank: int
    energy: float = 0.0
    held: float = 0.0


def resize_lora(
    argument: str,
    rank: int,
    output: Path,
    reporter: Reporter,
    *,
    config: str | None = None,
    dtype: Dtype | None = None,
    force: bool = False,
) -> ResizeReport:
    """Write a LoRA of any dialect at a smaller rank, a module at a time.

    A product B A is decomposed exactly, by QR of both and an SVD of r x r; LoHa and LoKr by a
    randomised SVD of their matrix. The file's own scales, and the strength, are in the factors.

    Args:
        argument: FILE, or FILE:STRENGTH.
        rank: the largest of any module.
        output: the file to write.
        reporter: receives progress.
        config: the model; by default the first shipped one that takes every key.
        dtype: of the file; by default the one that most of its matrices have.
        force: whether a file that is there makes way.

    Raises:
        AdapterError: the file isn't a LoRA of that model, or holds what only a base can resize.
        BuildError: the output exists, or the disk is too small.
    """
    given = parse_lora(argument)
    path = find_lora(given.path)
    file = open_safetensors(path, AdapterError)
    if output.exists() and not force:
        raise BuildError(f"{output} exists", "replace it with --force")
    check_writable(output, [path], force=force)
    name = config or next(iter(find_fits(file)), None)
    if name is None:
        raise UsageError(
            f"{path} fits no shipped configuration in full",
            f"name its model with --config; wanexport inspect {path} says what doesn't fit",
        )
    shapes = module_shapes(load_config(name).architecture)
    (adapter,) = resolve_adapters([(path, given.strength)], shapes, reporter)
    products, kept = _sort(adapter)
    chosen = dtype or _usual_dtype(products)
    modules = {d.module: _Module(d, min(rank, _most(d))) for d in products}
    matrices = {module: one.delta.shape for module, one in modules.items()}
    check_disk(output.parent, lora_bytes(matrices, rank, itemsize(chosen)))
    (digest,) = hash_files("the LoRA", [path], reporter).values()
    said = {"source": digest, "rank": rank, "strength": given.strength, "wanexport": __version__}
    header = {MADE: json.dumps(said, sort_keys=True)}
    header |= {"wanexport.random": "true"} if adapter.random_weights else {}
    with reporter.bytes(f"writing {output.name}", None) as piece:
        write_lora(
            output,
            {m: _carry(one, SAFETENSORS[chosen], piece.advance) for m, one in modules.items()},
            SAFETENSORS[chosen],
            header,
            dict(_whole(kept, SAFETENSORS[chosen])),
        )
    energy = sum(one.energy for one in modules.values())
    held = sum(one.held for one in modules.values())
    return ResizeReport(
        file=str(output),
        rank=rank,
        dtype=chosen,
        captured={m: _share(one.held, one.energy) for m, one in modules.items()},
        total=_share(held, energy),
        kept=tuple(delta.title for delta in kept),
    )


def _sort(adapter: Adapter) -> tuple[list[Delta], list[Delta]]:
    """Return products of matrices, and changes of whole values.

    Raises:
        AdapterError: it has others, or the same module twice, or no products.
    """
    products = [d for d in adapter.deltas if d.is_product]
    products = [d for d in products if len(d.shape) == 2 and "magnitude" not in d.tensors]
    kept = [d for d in adapter.deltas if d.kind == "diff" and "magnitude" not in d.tensors]
    left = [d.title for d in adapter.deltas if d not in products and d not in kept]
    if left:
        raise AdapterError(
            f"{adapter.path}: {first_and_more(left)} can't be resized: what it adds depends on the "
            "base, or isn't a matrix",
            "merge it as it is: wanexport build --mode merged",
        )
    if not products:
        raise AdapterError(f"{adapter.path} has no low-rank part to resize", "give another file")
    twice = [module for module, n in Counter(d.module for d in products).items() if n > 1]
    if twice:
        raise AdapterError(f"{adapter.path} changes {twice[0]} twice", "split the file")
    return products, kept


def _most(delta: Delta) -> int:
    return delta.rank if delta.is_low_rank else min(delta.shape)


def _usual_dtype(products: Sequence[Delta]) -> Dtype:
    """Return the dtype that most matrices have; bf16 if engines can't have that."""
    dtypes = Counter(ref.dtype for delta in products for ref in delta.tensors.values())
    return ENGINE_DTYPES.get(dtypes.most_common(1)[0][0], "bf16")


def _carry(one: _Module, dtype: str, on_bytes: Callable[[int], None]) -> Carried:
    out, width = one.delta.shape

    def read() -> tuple[torch.Tensor, torch.Tensor]:
        found, one.energy = _decompose(one)
        one.held = float(found.values.double().square().sum())
        on_bytes(sum(ref.nbytes for ref in one.delta.tensors.values()))
        down, up = (
            round_finite(tensor, StoredTensor(one.delta.title, dtype, tuple(tensor.shape)))
            for tensor in (found.down, found.up)
        )
        return down, up

    return Carried((out, width), one.rank, read)


def _decompose(one: _Module) -> tuple[Factors, float]:
    """Return the leading factors of a module's change, and the change's sum of squares."""
    delta = one.delta
    if delta.is_low_rank:
        down, up = delta.low_rank()
        every = decompose_product(up, down)
        return every.first(one.rank), float(every.values.double().square().sum())
    change = delta.change(torch.empty(0))  # LoHa and LoKr don't read the base
    return decompose(change, one.rank, delta.module), float(change.double().square().sum())


def _whole(
    kept: Sequence[Delta], dtype: str
) -> Iterator[tuple[StoredTensor, Callable[[], torch.Tensor]]]:
    for delta in kept:
        end = delta.parameter.removeprefix(delta.module)
        name = f"{PREFIX}{to_original(delta.module)}.{WHOLE[end]}"
        spec = StoredTensor(name, dtype, delta.shape)
        yield spec, partial(_read_whole, delta, spec)


def _read_whole(delta: Delta, spec: StoredTensor) -> torch.Tensor:
    return round_finite(delta.change(torch.empty(0)), spec)


def _share(held: float, energy: float) -> float:
    return min(1.0, held / energy) if energy else 1.0
