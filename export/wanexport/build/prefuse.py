"""LoRAs merged into a checkpoint before anything else: a layer over it, shared by all engines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.checkpoint.open import Checkpoint
from wanexport.lora.adapter import Adapter, merge_blocks, touched_parameters
from wanexport.lora.choose import Choice
from wanexport.lora.find import LoraArgument, find_lora, name_lora, resolve_adapters
from wanexport.storage.hashes import hash_files
from wanexport.storage.names import safe_name
from wanexport.storage.tensor_file import TensorRef
from wanrt.manifest.origin import Prefused
from wanrt.terminal.progress import Reporter

if TYPE_CHECKING:
    import torch

__all__ = ["Prefuse", "lay_prefused", "read_prefuse"]


@dataclass(frozen=True)
class Prefuse:
    """A LoRA that every mode has in its base.

    Args:
        adapter: the resolved file.
        name: what engines call it.
        sha256: of the file.
    """

    adapter: Adapter
    name: str
    sha256: str

    @property
    def label(self) -> str:
        """Its part of an engine's name: NAME, or NAME-x0.8."""
        strength = self.adapter.strength
        return self.name if strength == 1 else f"{self.name}-x{strength:g}"

    @property
    def recorded(self) -> Prefused:
        """What engine.json says of it."""
        return Prefused(name=self.name, sha256=self.sha256, strength=self.adapter.strength)


@dataclass(frozen=True)
class PrefusedRef(TensorRef):
    """A parameter with LoRAs merged into it, in fp32; it is rounded where it is stored.

    Args:
        parameter: diffusers' name.
        under: the checkpoint's tensor.
        adapters: what is merged.
        recipe: names the files that are merged, and their strengths.
    """

    parameter: str
    under: TensorRef
    adapters: tuple[Adapter, ...]
    recipe: str

    @property
    def as_it_lies(self) -> bool:
        """False: its values are made."""
        return False

    @property
    def made_by(self) -> str:
        """The files that are merged, with their strengths."""
        return self.recipe

    @property
    def stored_as(self) -> TensorRef:
        """The checkpoint's tensor."""
        return self.under.stored_as

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of the checkpoint and of what is merged."""
        return (*self.under.paths, *(adapter.path for adapter in self.adapters))

    def read(self) -> torch.Tensor:
        """Return the parameter in fp32."""
        return self.join_blocks()

    def read_blocks(self) -> Iterator[torch.Tensor]:
        """Yield the parameter in fp32, in blocks of rows."""
        import torch

        blocks = self.under.read_blocks()
        yield from merge_blocks(self.parameter, blocks, self.adapters, torch.float32)


def read_prefuse(
    loras: Sequence[LoraArgument],
    shapes: Mapping[str, tuple[int, ...]],
    choice: Choice,
    reporter: Reporter,
) -> tuple[Prefuse, ...]:
    """Resolve the LoRAs of --prefuse; `resolve_adapter` says what is refused."""
    paths = [(find_lora(lora.path), lora.strength) for lora in loras]
    adapters = resolve_adapters(paths, shapes, reporter, choice)
    digests = hash_files("the LoRA", (path for path, _ in paths), reporter)
    return tuple(
        Prefuse(adapter, safe_name(name_lora(adapter.path)), digests[adapter.path])
        for adapter in adapters
    )


def lay_prefused(prefuse: Sequence[Prefuse], under: Checkpoint) -> Checkpoint:
    """Return a checkpoint with LoRAs merged into it: what they change is a layer over it."""
    adapters = tuple(one.adapter for one in prefuse)
    recipe = ",".join(f"{one.sha256}@{one.adapter.strength!r}" for one in prefuse)
    own = {}
    for name in sorted(touched_parameters(adapters)):
        ref = under.tensors[name]
        own[name] = PrefusedRef(
            ref.name, "F32", ref.shape, ref.path, ref.offset, name, ref, adapters, recipe
        )
    names = " and ".join(str(one.adapter.path) for one in prefuse)
    said = f"{names} merged into {len(own)} of {len(under.tensors)} tensors of {under.path}"
    return replace(
        under,
        tensors={**under.tensors, **own},
        random_weights=under.random_weights or any(a.random_weights for a in adapters),
        under=under,
        own=own,
        origin="prefused",
        laid_over="; ".join(filter(None, (under.laid_over, said))),
    )
