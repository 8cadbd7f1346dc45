"""A checkpoint's architecture, read from its tensors' shapes and compared with the expected one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from wanexport.errors import CheckpointError
from wanexport.model.config import Architecture, list_configs, load_config
from wanexport.model.names import module_shapes
from wanrt.terminal.text import first_three

__all__ = [
    "check_architecture",
    "check_complete",
    "check_config",
    "check_known",
    "read_architecture",
]

Shapes = Mapping[str, tuple[int, ...]]

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

TRAINED_ALONE = (
    "if these are the trained parameters alone, give them with --finetuned, and with --base the "
    "checkpoint that was trained"
)


def read_architecture(shapes: Shapes, where: str, config: Mapping[str, object]) -> Architecture:
    def size(name: str, axis: int, rank: int) -> int:
        if name not in shapes:
            raise CheckpointError(
                f"{where} has no tensor {name}, so it isn't a whole Wan2.1 DiT; it holds "
                f"{len(shapes)} tensors of one: {first_three(sorted(shapes))}",
                TRAINED_ALONE,
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


def check_architecture(shapes: Shapes, found: Architecture, arch: Architecture, where: str) -> None:
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


def check_known(shapes: Shapes, wanted: Shapes, where: str) -> None:
    """Refuse tensors that the model doesn't have, or has in another shape."""
    unknown = [name for name in shapes if name not in wanted]
    if unknown:
        missing = [name for name in wanted if name not in shapes]
        near = difflib.get_close_matches(unknown[0], missing or list(wanted), n=1)
        raise CheckpointError(
            f"{where} holds {len(unknown)} unknown tensors: {first_three(unknown)}",
            f"the nearest known name is {near[0]}" if near else "",
        )
    for name, shape in shapes.items():
        if shape != wanted[name]:
            raise CheckpointError(
                f"{where}: {name} is {list(shape)}, should be {list(wanted[name])}"
            )


def check_complete(shapes: Shapes, wanted: Shapes, where: str) -> None:
    """Refuse a checkpoint that lacks tensors."""
    missing = [name for name in wanted if name not in shapes]
    if missing:
        raise CheckpointError(
            f"{where} lacks {len(missing)} of {len(wanted)} tensors: {first_three(missing)}",
            TRAINED_ALONE,
        )


def check_config(config: Mapping[str, object], arch: Architecture, folder: Path) -> None:
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
