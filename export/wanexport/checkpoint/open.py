"""A base or fine-tuned checkpoint: its files, its tensors by name, its architecture.

Only headers are read. Diffusers' format, Wan's original one and single files as ComfyUI uses them
are told apart by their tensors' names; everything else is refused by name.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from wanexport.checkpoint.locate import Location, locate_checkpoint, own_path
from wanexport.errors import CheckpointError
from wanexport.model.config import Architecture, list_configs, load_config
from wanexport.model.names import module_shapes, to_diffusers
from wanexport.storage.dtypes import ENGINE_DTYPES
from wanexport.storage.tensor_file import SafetensorsFile, TensorRef, open_safetensors
from wanrt.terminal.text import first_three

__all__ = ["Checkpoint", "open_checkpoint"]

Layout = Literal["diffusers", "original"]
Shapes = Mapping[str, tuple[int, ...]]

PREFIXES = ("model.diffusion_model.", "diffusion_model.")
LORA_KEY = re.compile(r"\.(lora_|lokr_|hada_|dora_scale|diff$|diff_[bm]$)|^lora_unet_|^lycoris_")
ORIGINAL_KEY = re.compile(r"^(text_embedding|time_embedding|head|img_emb)\.|\.self_attn\.")
CLASSES = ("WanTransformer3DModel", "WanModel")
# config.json's keys, diffusers' and the original's, and the architecture's fields
CONFIG_KEYS = {
    "num_layers": "num_layers",
    "num_attention_heads": "num_attention_heads",
    "num_heads": "num_attention_heads",
    "attention_head_dim": "attention_head_dim",
    "dim": "width",
    "ffn_dim": "ffn_dim",
    "in_channels": "in_channels",
    "in_dim": "in_channels",
    "out_channels": "out_channels",
    "out_dim": "out_channels",
    "text_dim": "text_dim",
    "freq_dim": "freq_dim",
    "image_dim": "image_dim",
    "added_kv_proj_dim": "added_kv_proj_dim",
    "pos_embed_seq_len": "pos_embed_seq_len",
    "eps": "eps",
    "rope_max_seq_len": "rope_max_seq_len",
}
CONFIG_VALUES: dict[str, tuple[object, ...]] = {
    "patch_size": ([1, 2, 2],),
    "cross_attn_norm": (True,),
    "qk_norm": ("rms_norm_across_heads", True),
    "text_len": (512,),
}


@dataclass(frozen=True)
class Checkpoint:
    """A whole, checked checkpoint; its tensors lie where they lay.

    Args:
        path: the folder or file it was read from.
        files: its safetensors files.
        tensors: diffusers' parameter name -> the tensor, under its own name in its file.
        layout: whose names the files use.
        architecture: read from the tensors' shapes.
        random_weights: whether its writer says that the weights are random.
    """

    path: Path
    files: tuple[SafetensorsFile, ...]
    tensors: dict[str, TensorRef]
    layout: Layout
    architecture: Architecture
    random_weights: bool

    @property
    def dtypes(self) -> tuple[str, ...]:
        """The safetensors dtypes its tensors have."""
        return tuple(sorted({ref.dtype for ref in self.tensors.values()}))

    @property
    def nbytes(self) -> int:
        """The bytes of all tensors."""
        return sum(ref.nbytes for ref in self.tensors.values())


def open_checkpoint(path_or_id: str, arch: Architecture | None = None) -> Checkpoint:
    """Find a checkpoint, read its headers and check it in full.

    Args:
        path_or_id: a folder (diffusers' with or without its `transformer/`, or the original's), a
            safetensors file, or `org/name[/subfolder]` in the local Hugging Face cache.
        arch: what it has to be; without it, what its shapes say.

    Raises:
        CheckpointError: it is missing, damaged, incomplete, of another architecture than `arch` or
            than its own config.json, or something else than a Wan2.1 checkpoint.
    """
    try:
        location = locate_checkpoint(path_or_id)
        files = tuple(open_safetensors(file) for file in location.files)
    except OSError as error:
        raise CheckpointError(f"{path_or_id} can't be read: {error.strerror or error}") from None
    where = str(location.path)
    _refuse_class(location.config or {}, where)
    stored = _collect(files, location)
    _refuse_foreign(stored, where)
    layout, tensors = _rename(stored, where)
    shapes = {name: ref.shape for name, ref in tensors.items()}
    found = _read_architecture(shapes, where, location.config or {})
    if arch is not None:
        _check_architecture(shapes, found, arch, where)
    _check_tensors(shapes, module_shapes(arch or found), where)
    _check_config(location.config or {}, arch or found, location.path)
    return Checkpoint(
        path=location.path,
        files=files,
        tensors={name: replace(ref, path=own_path(ref.path)) for name, ref in tensors.items()},
        layout=layout,
        architecture=arch or found,
        random_weights=any(file.metadata.get("wanexport.random") == "true" for file in files),
    )


def _collect(files: Iterable[SafetensorsFile], location: Location) -> dict[str, TensorRef]:
    """Return all files' tensors by their own names; the index has to agree with the headers."""
    stored: dict[str, TensorRef] = {}
    for file in files:
        for name, ref in file.tensors.items():
            if name in stored:
                raise CheckpointError(
                    f"{location.path}: {name} lies in {stored[name].path.name} and {ref.path.name}"
                )
            stored[name] = ref
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


def _refuse_class(config: Mapping[str, object], where: str) -> None:
    name = config.get("_class_name", CLASSES[0])
    if "VACE" in str(name).upper() or config.get("model_type") == "vace":
        raise CheckpointError(f"{where} is a VACE model, which isn't supported")
    if config.get("model_type") == "ti2v":
        raise CheckpointError(f"{where} is Wan2.2 TI2V-5B, which isn't supported")
    if name not in CLASSES:
        raise CheckpointError(
            f"{where}: config.json says {name}; a Wan2.1 DiT is a {CLASSES[0]}",
            "name the folder of the transformer",
        )


def _refuse_foreign(stored: Mapping[str, TensorRef], where: str) -> None:
    """Refuse what is known to be something else, by its name."""
    lora = [name for name in stored if LORA_KEY.search(name)]
    if lora:
        raise CheckpointError(
            f"{where} is a LoRA, or has one attached: {first_three(lora)}",
            f"give it with --lora {where}",
        )
    if any("vace_" in name for name in stored):
        raise CheckpointError(f"{where} is a VACE model, which isn't supported")
    for name, ref in stored.items():
        if name.endswith("patch_embedding.weight") and ref.shape[1:2] == (48,):
            raise CheckpointError(f"{where} is Wan2.2 TI2V-5B, which isn't supported")
        if ref.dtype not in ENGINE_DTYPES:
            raise CheckpointError(
                f"{where}: {name} is {ref.dtype}; {', '.join(ENGINE_DTYPES)} can be read",
                "use the checkpoint that this one was quantized from",
            )


def _rename(stored: Mapping[str, TensorRef], where: str) -> tuple[Layout, dict[str, TensorRef]]:
    """Return the tensors by diffusers' names; what has no such name keeps its own."""
    prefix = next((p for p in PREFIXES if any(name.startswith(p) for name in stored)), "")
    bare = {name: name.removeprefix(prefix) for name in stored}
    original = any(ORIGINAL_KEY.search(name) for name in bare.values())
    tensors: dict[str, TensorRef] = {}
    for name, ref in stored.items():
        known = (to_diffusers(bare[name]) if original else None) or bare[name]
        if known in tensors:
            raise CheckpointError(f"{where}: {tensors[known].name} and {name} are both {known}")
        tensors[known] = ref
    return ("original" if original else "diffusers"), tensors


def _read_architecture(shapes: Shapes, where: str, config: Mapping[str, object]) -> Architecture:
    def size(name: str, axis: int, rank: int) -> int:
        if name not in shapes:
            raise CheckpointError(
                f"{where} has no tensor {name}, so it isn't a whole Wan2.1 DiT",
            )
        if len(shapes[name]) != rank:
            raise CheckpointError(f"{where}: {name} is {list(shapes[name])}, not of rank {rank}")
        return shapes[name][axis]

    embedder = "condition_embedder"
    width = size("patch_embedding.weight", 0, 5)
    image = f"{embedder}.image_embedder"
    conditioned = any(name.startswith(f"{image}.") for name in shapes)
    blocks = {name.split(".")[1] for name in shapes if name.startswith("blocks.")}
    fixed = {key: config[key] for key in ("eps", "rope_max_seq_len") if key in config}
    if width % 128:
        raise CheckpointError(f"{where} has width {width}, not a multiple of the head size, 128")
    try:
        return Architecture.model_validate(
            {
                "num_layers": len(blocks),
                "num_attention_heads": width // 128,
                "ffn_dim": size("blocks.0.ffn.net.0.proj.weight", 0, 2),
                "in_channels": size("patch_embedding.weight", 1, 5),
                "out_channels": size("proj_out.weight", 0, 2) // 4,
                "text_dim": size(f"{embedder}.text_embedder.linear_1.weight", 1, 2),
                "freq_dim": size(f"{embedder}.time_embedder.linear_1.weight", 1, 2),
                "image_dim": size(f"{image}.norm1.weight", 0, 1) if conditioned else None,
                "added_kv_proj_dim": width if conditioned else None,
                "pos_embed_seq_len": size(f"{image}.pos_embed", 1, 3)
                if f"{image}.pos_embed" in shapes
                else None,
                **fixed,
            }
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise CheckpointError(
            f"{where} has no valid architecture: {'.'.join(map(str, first['loc']))}: {first['msg']}"
        ) from None


def _check_architecture(
    shapes: Shapes, found: Architecture, arch: Architecture, where: str
) -> None:
    """Refuse a checkpoint of another architecture with the first difference that explains it."""
    if found == arch:
        return
    hint = _name_configs(found)
    wanted = module_shapes(arch)
    for name in (n for n in wanted if not n.startswith("blocks.") or n.startswith("blocks.0.")):
        if name in shapes and shapes[name] != wanted[name]:
            raise CheckpointError(
                f"{where}: {name} is {list(shapes[name])}, "
                f"the configuration wants {list(wanted[name])}",
                hint,
            )
    for field, value in arch.model_dump().items():
        if getattr(found, field) != value:
            raise CheckpointError(
                f"{where} has {field} {getattr(found, field)}, the configuration wants {value}",
                hint,
            )


def _name_configs(arch: Architecture) -> str:
    fitting = [name for name in list_configs() if load_config(name).architecture == arch]
    if fitting:
        return f"it fits --config {' or '.join(fitting)}"
    sizes = [f"{key} = {value}" for key, value in arch.model_dump(exclude_none=True).items()]
    return f"no shipped configuration fits it; write one with {', '.join(sizes)}"


def _check_tensors(shapes: Shapes, wanted: Shapes, where: str) -> None:
    unknown = [name for name in shapes if name not in wanted]
    missing = [name for name in wanted if name not in shapes]
    if unknown:
        near = difflib.get_close_matches(unknown[0], missing or list(wanted), n=1)
        raise CheckpointError(
            f"{where} holds {len(unknown)} unknown tensors: {first_three(unknown)}",
            f"the nearest known name is {near[0]}" if near else "",
        )
    if missing:
        raise CheckpointError(
            f"{where} lacks {len(missing)} of {len(wanted)} tensors: {first_three(missing)}"
        )
    for name, shape in shapes.items():
        if shape != wanted[name]:
            raise CheckpointError(
                f"{where}: {name} is {list(shape)}, should be {list(wanted[name])}"
            )


def _check_config(config: Mapping[str, object], arch: Architecture, folder: Path) -> None:
    """Check config.json against the tensors; keys that don't shape the graph say what they like."""
    path = folder / "config.json"
    for key, field in CONFIG_KEYS.items():
        if key in config and config[key] != getattr(arch, field):
            raise CheckpointError(
                f"{path} says {key} {config[key]!r}, the tensors and the configuration "
                f"{getattr(arch, field)!r}",
                "one of them belongs to another model",
            )
    for key, values in CONFIG_VALUES.items():
        if key in config and config[key] not in values:
            raise CheckpointError(f"{path} says {key} {config[key]!r}; Wan2.1 has {values[0]!r}")
