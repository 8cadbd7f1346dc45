"""Read a checkpoint's headers: its DiT's tensors by diffusers' names, whole or in part."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from wanexport.checkpoint.foreign import refuse_class, refuse_foreign, refuse_lora
from wanexport.checkpoint.gguf_file import open_weights
from wanexport.checkpoint.locate import Location, locate_checkpoint, own_path
from wanexport.checkpoint.quantized import pair_scales, read_formats
from wanexport.checkpoint.select import select_dit
from wanexport.errors import CheckpointError
from wanexport.model.names import to_diffusers
from wanexport.storage.tensor_file import SafetensorsFile, TensorRef

__all__ = ["Layout", "Read", "read_checkpoint"]

Layout = Literal["diffusers", "original"]

# names that only the original layout has; what was trained alone may hold any one kind of them
ORIGINAL_KEY = re.compile(
    r"^(text_embedding|time_embedding|time_projection|head|img_emb)\.|\.(self|cross)_attn\."
    r"|^blocks\.\d+\.(ffn\.\d|norm3\.|modulation$)"
)
DIFFUSERS_KEY = re.compile(r"^condition_embedder\.|\.attn[12]\.")


@dataclass(frozen=True)
class Read:
    """What a checkpoint's files hold of a DiT, not yet compared with any architecture.

    Args:
        path: the folder or file it was read from.
        files: its files.
        tensors: diffusers' parameter name -> the tensor, under its own name in its file.
        layout: whose names the files use.
        random_weights: whether its writer says that the weights are random.
        stripped: what was taken off its names: `model.`, `_orig_mod.`.
        left_aside: the first words of names that aren't the DiT's -> how many tensors they have.
        config: its config.json.
    """

    path: Path
    files: tuple[SafetensorsFile, ...]
    tensors: dict[str, TensorRef]
    layout: Layout
    random_weights: bool
    stripped: tuple[str, ...]
    left_aside: Mapping[str, int]
    config: Mapping[str, object] = field(default_factory=dict)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Parameter name -> shape."""
        return {name: ref.shape for name, ref in self.tensors.items()}


def read_checkpoint(path_or_id: str) -> Read:
    """Find a checkpoint, read its headers and refuse by its name what isn't a Wan2.1 DiT's.

    Raises:
        CheckpointError: it is missing, damaged, or something else.
    """
    try:
        location = locate_checkpoint(path_or_id)
        return _read(location, tuple(open_weights(file) for file in location.files))
    except OSError as error:
        raise CheckpointError(f"{path_or_id} can't be read: {error.strerror or error}") from None


def _read(location: Location, files: tuple[SafetensorsFile, ...]) -> Read:
    where, config = str(location.path), location.config or {}
    refuse_class(config, where)
    stored = _collect(files, location)
    refuse_lora(stored, where)
    selection = select_dit(stored, where)
    refuse_foreign(selection.tensors, where)
    formats = {selection.bare(n): said for n, said in read_formats(files, where).items()}
    layout, tensors = _rename(pair_scales(selection.tensors, formats, where), where)
    return Read(
        path=location.path,
        files=files,
        tensors=tensors,
        layout=layout,
        random_weights=any(file.metadata.get("wanexport.random") == "true" for file in files),
        stripped=selection.stripped,
        left_aside=selection.left_aside,
        config=config,
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
    original = any(map(ORIGINAL_KEY.search, tensors)) and not any(
        map(DIFFUSERS_KEY.search, tensors)
    )
    renamed: dict[str, TensorRef] = {}
    for name, ref in tensors.items():
        known = (to_diffusers(name) if original else None) or name
        if known in renamed:
            raise CheckpointError(f"{where}: {renamed[known].name} and {ref.name} are both {known}")
        renamed[known] = ref
    return ("original" if original else "diffusers"), renamed
