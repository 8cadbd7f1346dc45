"""A base or fine-tuned checkpoint: its files, its tensors by name, its architecture.

Only headers are read. Diffusers' format, Wan's original one and single files as ComfyUI uses them
are recognised by their tensors' names; everything else is refused by name.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from wanexport.checkpoint.architecture import (
    check_architecture,
    check_config,
    check_tensors,
    read_architecture,
)
from wanexport.checkpoint.foreign import refuse_class, refuse_foreign, refuse_lora
from wanexport.checkpoint.gguf_file import open_weights
from wanexport.checkpoint.locate import Location, locate_checkpoint, own_path
from wanexport.checkpoint.quantized import pair_scales, read_formats
from wanexport.checkpoint.quantized_ref import QuantizedRef
from wanexport.checkpoint.select import select_dit
from wanexport.errors import CheckpointError
from wanexport.model.config import Architecture
from wanexport.model.names import module_shapes, to_diffusers
from wanexport.storage.tensor_file import SafetensorsFile, TensorRef

__all__ = ["Checkpoint", "open_checkpoint"]

Layout = Literal["diffusers", "original"]

ORIGINAL_KEY = re.compile(r"^(text_embedding|time_embedding|head|img_emb)\.|\.self_attn\.")


@dataclass(frozen=True)
class Checkpoint:
    """A complete, checked checkpoint; its tensors stay in their files.

    Args:
        path: the folder or file it was read from.
        files: its files.
        tensors: diffusers' parameter name -> the tensor, under its own name in its file.
        layout: whose names the files use.
        architecture: read from the tensors' shapes.
        random_weights: whether its writer says that the weights are random.
        stripped: what was taken off its names: `model.`, `_orig_mod.`.
        left_aside: the first words of names that aren't the DiT's -> how many tensors they have.
    """

    path: Path
    files: tuple[SafetensorsFile, ...]
    tensors: dict[str, TensorRef]
    layout: Layout
    architecture: Architecture
    random_weights: bool
    stripped: tuple[str, ...] = ()
    left_aside: Mapping[str, int] = field(default_factory=dict)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The safetensors dtypes that its files have them in."""
        refs = self.tensors.values()
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
        for ref in self.tensors.values():
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
    try:
        location = locate_checkpoint(path_or_id)
        files = tuple(open_weights(file) for file in location.files)
        return _check(location, files, arch)
    except OSError as error:
        raise CheckpointError(f"{path_or_id} can't be read: {error.strerror or error}") from None


def _check(
    location: Location, files: tuple[SafetensorsFile, ...], arch: Architecture | None
) -> Checkpoint:
    where, config = str(location.path), location.config or {}
    refuse_class(config, where)
    stored = _collect(files, location)
    refuse_lora(stored, where)
    selection = select_dit(stored, where)
    refuse_foreign(selection.tensors, where)
    formats = {selection.bare(n): said for n, said in read_formats(files, where).items()}
    layout, tensors = _rename(pair_scales(selection.tensors, formats, where), where)
    shapes = {name: ref.shape for name, ref in tensors.items()}
    found = read_architecture(shapes, where, config)
    if arch is not None:
        check_architecture(shapes, found, arch, where)
    check_tensors(shapes, module_shapes(arch or found), where)
    check_config(config, arch or found, location.path)
    return Checkpoint(
        path=location.path,
        files=files,
        tensors=tensors,
        layout=layout,
        architecture=arch or found,
        random_weights=any(file.metadata.get("wanexport.random") == "true" for file in files),
        stripped=selection.stripped,
        left_aside=selection.left_aside,
    )


def _collect(files: Iterable[SafetensorsFile], location: Location) -> dict[str, TensorRef]:
    """Return all files' tensors by their own names; the index has to agree with the headers."""
    stored: dict[str, TensorRef] = {}
    for file in files:
        for name, ref in file.tensors.items():
            if name in stored:
                raise CheckpointError(
                    f"{location.path}: {name} is in both {stored[name].path.name} and "
                    f"{ref.path.name}"
                )
            stored[name] = replace(ref, path=own_path(ref.path))
    for name in sorted(stored.keys() | (location.weight_map or stored).keys()):
        said = (location.weight_map or {}).get(name)
        held = stored[name].path.name if name in stored else None
        if location.weight_map is not None and said != held:
            raise CheckpointError(
                f"{location.path}: the index places {name} in {said or 'no file'}; "
                f"it is in {held or 'none'}",
                "download the checkpoint again",
            )
    return stored


def _rename(tensors: Mapping[str, TensorRef], where: str) -> tuple[Layout, dict[str, TensorRef]]:
    """Return the tensors by diffusers' names; what has no such name keeps its own."""
    original = any(ORIGINAL_KEY.search(name) for name in tensors)
    renamed: dict[str, TensorRef] = {}
    for name, ref in tensors.items():
        known = (to_diffusers(name) if original else None) or name
        if known in renamed:
            raise CheckpointError(f"{where}: {renamed[known].name} and {ref.name} are both {known}")
        renamed[known] = ref
    return ("original" if original else "diffusers"), renamed
