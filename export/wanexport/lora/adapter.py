"""Adapters: resolved LoRA files, their merge into weights, and what can be carried unmerged.

W' = W + strength * s * B A. Every adapter's change is computed from the pristine weights and the
changes are added, so the result doesn't depend on the adapters' order; it is rounded once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.errors import AdapterError
from wanexport.lora.choose import SKIP_FLAG, Choice, choose_keys
from wanexport.lora.delta import Delta
from wanexport.lora.fits import find_fits
from wanexport.lora.resolve import Resolution, resolve_file
from wanexport.lora.scales import LARGEST
from wanexport.storage.tensor_file import open_safetensors
from wanrt.manifest.origin import ScaleFrom

if TYPE_CHECKING:
    import torch

__all__ = [
    "Adapter",
    "at_full_strength",
    "merge_blocks",
    "merge_parameter",
    "resolve_adapter",
    "split_rest",
    "stack_low_rank",
    "stacked_ranks",
    "touched_parameters",
]

RANDOM_KEYS = ("wanexport.random", "random_weights")


@dataclass(frozen=True)
class Adapter:
    """A LoRA file, resolved against a model; the tensors stay in the file.

    Args:
        path: the file.
        dialect: whose way of writing it is, for people.
        strength: the user's factor on everything in it.
        deltas: its changes of parameters.
        random_weights: whether its writer says that the values are random.
        scale_from: what says by how much its products are scaled.
        notes: what people should know of that, and of keys whose names or places are odd.
        skipped: keys that were left out, as `Choice` says.
    """

    path: Path
    dialect: str
    strength: float
    deltas: tuple[Delta, ...]
    random_weights: bool
    scale_from: ScaleFrom = "none"
    notes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The modules it changes, sorted."""
        return tuple(sorted({delta.module for delta in self.deltas}))

    @property
    def ranks(self) -> dict[str, int]:
        """Module -> rank, of the changes that a low-rank branch can carry."""
        return {delta.module: delta.rank for delta in self.deltas if delta.is_low_rank}

    @property
    def max_rank(self) -> int:
        """The largest rank of a module; 0 if no change is low-rank."""
        return max(self.ranks.values(), default=0)

    @cached_property
    def by_parameter(self) -> dict[str, tuple[Delta, ...]]:
        """Parameter -> its changes."""
        found: dict[str, tuple[Delta, ...]] = {}
        for delta in self.deltas:
            found[delta.parameter] = (*found.get(delta.parameter, ()), delta)
        return found

    def describe_parts(self) -> tuple[str, ...]:
        """Return each change's usual name: `DoRA of blocks.0.attn2.to_q.weight`."""
        return tuple(delta.title for delta in self.deltas)


def resolve_adapter(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    strength: float = 1.0,
    choice: Choice = Choice(),  # noqa: B008 -- frozen
) -> Adapter:
    """Read a LoRA file of any dialect; every key of it is applied, or the file is refused.

    Args:
        path: a safetensors file.
        shapes: diffusers' parameter name -> shape of the model it is for.
        strength: factor on all of its changes.
        choice: which of its keys are meant.

    Raises:
        AdapterError: the file can't be read, isn't a LoRA, or has a key that matches no module,
            doesn't fit it, lacks its other half, or belongs to a kind that isn't supported.
    """
    if not abs(strength) <= LARGEST:
        raise AdapterError(f"{path}: strength {strength:g} is out of fp32's range")
    file = open_safetensors(path, AdapterError)
    file, skipped = choose_keys(file, shapes, choice)
    resolution = resolve_file(file, shapes, strength)
    if resolution.problems:
        first, *others = resolution.problems
        more = f" (and {len(others)} more such problems)" if others else ""
        hint = first.hint or f"see all of it: wanexport inspect {path}"
        if fits := find_fits(file):
            hint = f"it fits in full: --config {' or '.join(fits)}"
            if SKIP_FLAG in first.hint:
                hint += f"; for Wan2.2, which lacks such layers, apply the rest with {SKIP_FLAG}"
        raise AdapterError(f"{path}: {first.message}{more}", hint)
    random = any(file.metadata.get(key) == "true" for key in RANDOM_KEYS)
    return Adapter(
        path,
        resolution.dialect,
        strength,
        resolution.deltas,
        random,
        resolution.scale_from,
        (*_remarks(resolution), *resolution.notes),
        skipped,
    )


def at_full_strength(adapter: Adapter) -> Adapter:
    """Return an adapter at strength 1, as canonical files hold it."""
    deltas = tuple(replace(delta, strength=1.0) for delta in adapter.deltas)
    return replace(adapter, strength=1.0, deltas=deltas)


def touched_parameters(adapters: Iterable[Adapter]) -> set[str]:
    """Return the parameters that any of the adapters changes."""
    return {delta.parameter for adapter in adapters for delta in adapter.deltas}


def _remarks(resolution: Resolution) -> list[str]:
    """Return what was taken off a file's names, and what of it changes nothing."""
    found = []
    if resolution.stripped:
        found.append(f"its names begin with {resolution.stripped}, which is taken off")
    if resolution.left_aside:
        found.append(f"left aside, since it changes nothing: {', '.join(resolution.left_aside)}")
    return found


def merge_parameter(
    name: str,
    weight: torch.Tensor,
    adapters: Sequence[Adapter],
    dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """Return a parameter with all adapters merged; `merge_blocks` says how and what it raises."""
    (merged,) = merge_blocks(name, [weight], adapters, dtype or weight.dtype)
    return merged


def merge_blocks(
    name: str,
    weight: Iterable[torch.Tensor],
    adapters: Sequence[Adapter],
    dtype: torch.dtype,
) -> Iterator[torch.Tensor]:
    """Yield a parameter with all adapters merged: in fp32, from pristine values, rounded once.

    It comes in as many blocks as the weight does, or in one if a change of it isn't a low-rank
    product.

    Args:
        name: diffusers' name of the parameter.
        weight: its pristine values in blocks of rows, each of which may be overwritten once the
            next is asked for; they aren't changed.
        adapters: what to merge.
        dtype: of the result.

    Raises:
        AdapterError: an adapter's tensor isn't finite, or the result overflows the dtype.
    """
    import torch

    deltas = [delta for adapter in adapters for delta in adapter.by_parameter.get(name, ())]
    if not deltas:
        yield from (block.to(dtype) for block in weight)
        return
    products = [delta for delta in deltas if delta.is_low_rank]
    merge = _merge_products if len(products) == len(deltas) else _merge_whole
    for total in merge(weight, deltas):
        merged = total.to(dtype, copy=True)
        if not torch.isfinite(merged).all():
            if dtype == torch.float16 and torch.isfinite(total).all():
                raise AdapterError(
                    f"{name}, merged, overflows fp16", "build with --dtype bf16 or fp32"
                )
            raise AdapterError(
                f"{name}, merged, isn't finite",
                "its base holds NaN or infinite values, or the LoRA is far too strong",
            )
        yield merged


def _merge_whole(blocks: Iterable[torch.Tensor], deltas: Sequence[Delta]) -> Iterator[torch.Tensor]:
    import torch

    weight = torch.cat([block.clone() for block in blocks])
    total = deltas[0].merge(weight)
    for delta in deltas[1:]:
        total += delta.change(weight)
    yield total


def _merge_products(
    blocks: Iterable[torch.Tensor], deltas: Sequence[Delta]
) -> Iterator[torch.Tensor]:
    import torch

    a, b = stack_low_rank(deltas)
    room = torch.empty(0)  # its pages are faulted in once
    for block in blocks:
        rows, b = b[: len(block)], b[len(block) :]
        yield room.resize_(block.shape).copy_(block).addmm_(rows, a)


def stack_low_rank(deltas: Iterable[Delta]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return one A [sum r, in] and B [out, sum r] in fp32 for several changes of one module."""
    import torch

    pairs = [delta.low_rank() for delta in deltas]
    return torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs], dim=1)


def stacked_ranks(adapters: Iterable[Adapter]) -> dict[str, int]:
    """Return each module's rank when the adapters' low-rank changes are stacked, sorted."""
    ranks: dict[str, int] = {}
    for adapter in adapters:
        for module, rank in adapter.ranks.items():
            ranks[module] = ranks.get(module, 0) + rank
    return dict(sorted(ranks.items()))


def split_rest(
    adapters: Iterable[Adapter], targets: Collection[str] | None = None
) -> tuple[tuple[Adapter, ...], tuple[Adapter, ...]]:
    """Split adapters into what low-rank branches can carry unmerged, and the rest.

    Since every change counts from the pristine weights, merging the rest and carrying the others
    is the same as merging all.

    Args:
        adapters: the adapters.
        targets: the modules that have such a branch; every linear layer by default.

    Returns:
        The carried part and the rest of each adapter; parts without a change are left out.
    """
    carried: list[Adapter] = []
    rest: list[Adapter] = []
    for adapter in adapters:
        parts: tuple[list[Delta], list[Delta]] = ([], [])
        for delta in adapter.deltas:
            fits = delta.is_low_rank and (targets is None or delta.module in targets)
            parts[not fits].append(delta)
        for kept, deltas in zip((carried, rest), parts, strict=True):
            if deltas:
                kept.append(replace(adapter, deltas=tuple(deltas)))
    return tuple(carried), tuple(rest)
