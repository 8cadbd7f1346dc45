"""What a campaign works on: a checkpoint, a LoRA, two engines of two layers, results of a bench."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from campaign.children import preload, run_command

__all__ = ["Snapshot", "Workshop", "find_leftovers", "hash_engines", "snapshot"]

Snapshot = dict[str, tuple[int, ...]]
CONFIG = """name = "tiny"
dtype = "fp32"
[architecture]
num_layers = 2
num_attention_heads = 2
ffn_dim = 320
in_channels = 36
text_dim = 64
image_dim = 80
added_kv_proj_dim = 256
[size]
width = 96
height = 64
frames = 5
"""
MODULES = [f"blocks.{n}.attn2.{name}" for n in range(2) for name in ("to_q", "to_k", "to_v")]
BUILD = ("--config", "tiny.toml", "--base", "random", "--rank", "4", "--verify", "none")
"""What is built over and over, in all modes: what can be killed is writing, not comparing."""
ENGINE = "engines/tiny-96x64x5-fp32-swappable-r4"
MAKING = (
    ("wanexport", "adapter", "lora.safetensors", "--for", ENGINE, "-o", "a.safetensors"),
    ("wanrt", "bench", "engines", "--time-budget", "0", "--loads", "2", "--rounds", "1",
     "--json", "bench.json"),
    ("wanrt", "run", ENGINE, "--save", "outputs.safetensors"),
)  # fmt: skip
VARYING = {"command", "mtime_ns"}  # how and when, not what


@dataclass(frozen=True)
class Workshop:
    """A folder that holds valid inputs of every kind under fixed names."""

    root: Path

    @classmethod
    def make(cls, root: Path) -> Workshop:
        """Make the inputs by the commands themselves, the first of them in this process.

        Raises:
            RuntimeError: one of them fails.
        """
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        (root / "tiny.toml").write_text(CONFIG)
        _write_lora(root / "lora.safetensors")
        preload(("wanexport", "build", *BUILD, "-q"), root)
        for argv in MAKING:
            outcome = run_command(argv, root)
            if outcome.code:
                raise RuntimeError(f"{' '.join(argv)}: {outcome.said}")
        (made,) = (path for path in (root / "engines/.made").iterdir() if path.is_dir())
        shutil.copytree(made, root / "checkpoint")
        return cls(root)


def _write_lora(path: Path) -> None:
    rng = np.random.default_rng(0)
    tensors = {}
    for module in MODULES:
        for side, shape in (("lora_A", (4, 256)), ("lora_B", (256, 4))):
            values = rng.standard_normal(shape, np.float32) / 16
            tensors[f"transformer.{module}.{side}.weight"] = values
    save_file(tensors, path)


def snapshot(root: Path) -> Snapshot:
    """Return what shows that a file was written to or replaced, by path."""
    found: Snapshot = {}
    for path in sorted(root.rglob("*")):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def hash_engines(root: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that an engine folder shows, by path."""
    found = {}
    for path in sorted(root.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(root).parts)
        if path.is_file() and not hidden:
            data = path.read_bytes()
            if path.name == "engine.json":
                data = json.dumps(_lasting(json.loads(data)), sort_keys=True).encode()
            found[str(path.relative_to(root))] = hashlib.sha256(data).hexdigest()
    return found


def find_leftovers(root: Path) -> list[str]:
    """Return what a finished command must not leave: drafts, temporaries, what it moved aside."""
    paths = [path.relative_to(root) for path in root.rglob(".*")]
    return [str(path) for path in paths if path.name.endswith((".tmp", ".draft", ".old"))]


def _lasting(value: object) -> object:
    if isinstance(value, dict):
        return {key: _lasting(held) for key, held in value.items() if key not in VARYING}
    return [_lasting(held) for held in value] if isinstance(value, list) else value
