"""A base or fine-tuned checkpoint: its files, its tensors by name, its architecture.

Only headers are read. Diffusers' format, Wan's original one and single files as ComfyUI uses them
are recognised by their tensors' names; everything else is refused by name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from wanexport.checkpoint.architecture import (
    check_architecture,
    check_complete,
    check_config,
    check_known,
    read_architecture,
)
from wanexport.checkpoint.quantized_ref import QuantizedRef
from wanexport.checkpoint.read import Layout, Read, read_checkpoint
from wanexport.model.config import Architecture
from wanexport.model.names import module_shapes
from wanexport.storage.tensor_file import SafetensorsFile, TensorRef

__all__ = ["Checkpoint", "Layer", "complete", "is_partial", "lay_over", "open_checkpoint"]

STEM = "patch_embedding.weight"


@dataclass(frozen=True)
class Layer:
    """Tensors of one checkpoint, some of which others are laid over.

    Args:
        files: its files.
        tensors: all that it holds.
        hidden: the names that a layer above holds, too, whose values count instead.
        origin: whose values they are, where they aren't the checkpoint's own.
    """

    files: tuple[SafetensorsFile, ...]
    tensors: Mapping[str, TensorRef]
    hidden: frozenset[str]
    origin: Literal["prefused"] | None = None


@dataclass(frozen=True)
class Checkpoint:
    """A complete, checked checkpoint; its tensors stay in their files.

    What holds only some parameters is complete once it is laid over another checkpoint.

    Args:
        path: the folder or file it was read from.
        files: its files.
        tensors: diffusers' parameter name -> the tensor, under its own name in its file.
        layout: whose names the files use.
        architecture: read from the tensors' shapes.
        random_weights: whether its writer says that the weights are random.
        stripped: what was taken off its names: `model.`, `_orig_mod.`.
        left_aside: the first words of names that aren't the DiT's -> how many tensors they have.
        under: the checkpoint that its own tensors are laid over.
        own: its own tensors; None if that is all of them.
        origin: whose values its own tensors are, where they aren't its files'.
        laid_over: what is whose, in a sentence; nothing of a whole checkpoint.
    """

    path: Path
    files: tuple[SafetensorsFile, ...]
    tensors: dict[str, TensorRef]
    layout: Layout
    architecture: Architecture
    random_weights: bool
    stripped: tuple[str, ...] = ()
    left_aside: Mapping[str, int] = field(default_factory=dict)
    under: Checkpoint | None = None
    own: Mapping[str, TensorRef] | None = None
    origin: Literal["prefused"] | None = None
    laid_over: str = ""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What it consists of, from the lowest layer up; a whole checkpoint is one layer."""
        if self.under is None or self.own is None:
            return (Layer(self.files, self.tensors, frozenset(), self.origin),)
        below = [replace(s, hidden=s.hidden | self.own.keys()) for s in self.under.layers]
        return (*below, Layer(self.files, self.own, frozenset(), self.origin))

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The safetensors dtypes that its files have them in."""
        refs = [ref.stored_as for ref in self.tensors.values()]
        return tuple(
            sorted({r.stored.dtype if isinstance(r, QuantizedRef) else r.dtype for r in refs})
        )

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors, once they are read."""
        return sum(ref.nbytes for ref in self.tensors.values())

    def scheme(self, file: Path | None = None) -> str | None:
        """Return how it, or one of its files, is quantised; None if it isn't.

        Several schemes come with the one of most values first: `gguf:Q4_K+Q6_K`.
        """
        counts: Counter[str] = Counter()
        for ref in (ref.stored_as for ref in self.tensors.values()):
            if isinstance(ref, QuantizedRef) and file in (None, ref.path):
                counts[ref.scheme] += ref.stored.nbytes
        if len(counts) > 1:
            del counts["gguf:F32"]  # norms and biases, of every kind of GGUF
        names = [name for name, _ in counts.most_common()]
        family = names[0].partition(":")[0] + ":" if names and ":" in names[0] else ""
        return family + "+".join(name.removeprefix(family) for name in names) if names else None


def open_checkpoint(path_or_id: str, arch: Architecture | None = None) -> Checkpoint:
    """Find a checkpoint, read its headers and check it in full.

    Args:
        path_or_id: a folder (diffusers' with or without its `transformer/`, or the original's), a
            safetensors or GGUF file, or `org/name[/subfolder]` in the local Hugging Face cache.
        arch: what it has to be; without it, what its shapes say.

    Raises:
        CheckpointError: it is missing, damaged, incomplete, of another architecture than `arch` or
            than its own config.json, or something else than a Wan2.1 checkpoint.
    """
    return complete(read_checkpoint(path_or_id), arch)


def complete(read: Read, arch: Architecture | None) -> Checkpoint:
    """Check that what was read is a whole checkpoint, of `arch` where that is given."""
    where, shapes = str(read.path), read.shapes
    found = read_architecture(shapes, where, read.config)
    if arch is not None:
        check_architecture(shapes, found, arch, where)
    wanted = module_shapes(arch or found)
    check_known(shapes, wanted, where)
    check_complete(shapes, wanted, where)
    check_config(read.config, arch or found, read.path)
    return _checkpoint(read, arch or found)


def is_partial(read: Read, arch: Architecture) -> bool:
    """Tell whether only some of a model's parameters were read, as trainers save them."""
    return not module_shapes(arch).keys() <= read.tensors.keys()


def lay_over(read: Read, under: Checkpoint) -> Checkpoint:
    """Complete what holds only some parameters with the checkpoint that was trained.

    Raises:
        CheckpointError: it is of another architecture.
    """
    arch, where, shapes = under.architecture, str(read.path), read.shapes
    wanted = module_shapes(arch)
    if STEM in shapes and shapes[STEM] != wanted[STEM]:
        check_architecture(shapes, read_architecture(shapes, where, read.config), arch, where)
    check_known(shapes, wanted, where)
    check_config(read.config, arch, read.path)
    whole = replace(_checkpoint(read, arch), under=under, own=read.tensors)
    tensors = {**under.tensors, **read.tensors}
    return replace(
        whole,
        tensors=tensors,
        random_weights=read.random_weights or under.random_weights,
        laid_over=f"{read.path} holds {len(read.tensors)} of {len(tensors)} tensors; they are laid "
        f"over {under.path}",
    )


def _checkpoint(read: Read, arch: Architecture) -> Checkpoint:
    return Checkpoint(
        path=read.path,
        files=read.files,
        tensors=read.tensors,
        layout=read.layout,
        architecture=arch,
        random_weights=read.random_weights,
        stripped=read.stripped,
        left_aside=read.left_aside,
    )
