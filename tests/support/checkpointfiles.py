"""Small checkpoints for tests, and ways to damage them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from wanexport.model.config import Architecture
from wanexport.model.names import module_shapes

I2V = Architecture(
    num_layers=2,
    num_attention_heads=1,
    ffn_dim=256,
    in_channels=36,
    text_dim=64,
    image_dim=64,
    added_kv_proj_dim=128,
)
T2V = I2V.model_copy(update={"in_channels": 16, "image_dim": None, "added_kv_proj_dim": None})
FLF2V = I2V.model_copy(update={"pos_embed_seq_len": 514})
INDEX = "diffusion_pytorch_model.safetensors.index.json"
PATCH = "patch_embedding.weight"
Q = "blocks.0.attn2.to_q.weight"


def merged(folder: Path) -> dict[str, np.ndarray]:
    return {
        k: v for file in sorted(folder.glob("*.safetensors")) for k, v in load_file(file).items()
    }


def shard_of(folder: Path, name: str) -> Path:
    name_of_shard: str = json.loads((folder / INDEX).read_text())["weight_map"][name]
    return folder / name_of_shard


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_shard(folder: Path, name: str, edit: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change the tensors of the shard that holds one of them; the index follows."""
    path = shard_of(folder, name)
    tensors = load_file(path)
    before = set(tensors)
    edit(tensors)
    save_file(tensors, path)
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    for gone in before - set(tensors):
        del weight_map[gone]
    weight_map.update(dict.fromkeys(tensors, path.name))
    edit_json(folder / INDEX, weight_map=weight_map)


def truncate(folder: Path) -> None:
    path = shard_of(folder, Q)
    path.write_bytes(path.read_bytes()[:-1])


def lengthen_header(folder: Path) -> None:
    path = shard_of(folder, Q)
    path.write_bytes((1 << 62).to_bytes(8, "little") + path.read_bytes()[8:])


def quantize(folder: Path) -> None:
    """Make one tensor fp8, which numpy can't write."""
    path = shard_of(folder, Q)
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header[Q].update(dtype="F8_E4M3", shape=[128, 512])
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data[8 + length :])


def write_hollow(path: Path, arch: Architecture) -> None:
    """Write a true-sized single file whose weights are a hole in the disk."""
    header, offset = {}, 0
    for name, shape in module_shapes(arch).items():
        end = offset + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + offset)
