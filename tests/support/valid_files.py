"""Sound things to break, ways to break them, and what every refusal must look like."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from commands import Outcome, write_config
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from studies import I2V, T2V, build, config

from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.lora.find import LoraArgument

Q = "blocks.0.attn2.to_q"
INDEX = "diffusion_pytorch_model.safetensors.index.json"
RANK = 4


class Samples:
    """A sound base, configuration, LoRA and engines, and a folder to break copies of them in."""

    def __init__(self, root: Path, tmp: Path) -> None:
        self.root, self.tmp = root, tmp
        self.out = tmp / "engines"
        self.config = root / "tiny.toml"
        self.lora = root / "style.safetensors"
        self.separate = root / "study" / "tiny-96x64x5-fp32-separate-r4-style"
        self.swappable = root / "study" / "tiny-96x64x5-fp32-swappable-r4-style"
        self.adapter = self.swappable / "adapters" / "r4-style.safetensors"

    def copy(self, path: Path) -> Path:
        target = self.tmp / path.name
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            shutil.copyfile(path, target)
        return target

    def file(self, name: str, data: bytes | str) -> Path:
        path = self.tmp / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return path

    def base(self, edit: Callable[[dict[str, np.ndarray]], object] = lambda _: None) -> Path:
        """Return a base of one file, its tensors edited."""
        tensors: dict[str, np.ndarray] = {}
        for shard in sorted((self.root / "base").glob("*.safetensors")):
            tensors.update(load_file(shard))
        edit(tensors)
        save_file(tensors, self.tmp / "base.safetensors")
        return self.tmp / "base.safetensors"

    def with_lora(self, **changes: np.ndarray | None) -> Path:
        """Return the LoRA with tensors replaced, added or (None) left out."""
        tensors = load_file(self.lora) | {k: v for k, v in changes.items() if v is not None}
        held = {k: v for k, v in tensors.items() if k not in changes or changes[k] is not None}
        save_file(held, self.tmp / "lora.safetensors")
        return self.tmp / "lora.safetensors"

    def toml(self, old: str, new: str) -> Path:
        text = self.config.read_text()
        assert old in text
        return self.file("mine.toml", text.replace(old, new, 1))

    def build(self, *flags: object, **changes: Path | str) -> list[object]:
        """Return the arguments of a build of which the flags are wrong."""
        named = {"config": self.config, "base": self.root / "base", "out": self.out} | changes
        return ["build", *flags, *(x for key, value in named.items() for x in (f"--{key}", value))]

    def full(self, **changes: Path | str) -> list[object]:
        return self.build("--mode", "full", "--verify", "none", **changes)

    def merged(self, lora: object) -> list[object]:
        return self.build("--mode", "merged", "--verify", "none", "--lora", lora)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sound")
    write_config(root / "tiny.toml", config())
    for name, arch in {"base": I2V, "t2v": T2V}.items():
        write_checkpoint(root / name, arch, "fp32", 0, shard_bytes=4 << 20)
    width = I2V.width
    rng = np.random.default_rng(0)
    tensors = {
        f"transformer.{Q}.lora_A.weight": rng.standard_normal((RANK, width), np.float32),
        f"transformer.{Q}.lora_B.weight": rng.standard_normal((width, RANK), np.float32),
    }
    save_file(tensors, root / "style.safetensors")
    build(
        root / "study",
        modes=("separate", "swappable"),
        base=str(root / "base"),
        loras=(LoraArgument(str(root / "style.safetensors")),),
        verify=False,
    )
    return root


@pytest.fixture
def samples(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Samples:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return Samples(root, tmp_path)


def header(*, length: int | None = None, data: bytes = b"", **entries: object) -> bytes:
    """Return a safetensors file of any header, with any length written before it."""
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(begin: int, end: int, shape: tuple[int, ...] = (4,), dtype: str = "F32") -> object:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def shard(folder: Path) -> Path:
    return sorted(folder.glob("*.safetensors"))[0]


def cut(path: Path, keep: int = -1) -> Path:
    path.write_bytes(path.read_bytes()[:keep])
    return path


def edit_json(path: Path, **changes: object) -> Path:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return path


def poison(name: str, value: float) -> Callable[[dict[str, np.ndarray]], object]:
    def edit(tensors: dict[str, np.ndarray]) -> None:
        tensors[name].flat[3] = value

    return edit


def halve(tensors: dict[str, np.ndarray]) -> None:
    tensors.update({name: value.astype(np.float16) for name, value in tensors.items()})


def indexed(samples: Samples, **weight_map: object) -> list[object]:
    folder = samples.copy(samples.root / "base")
    edit_json(folder / INDEX, weight_map=weight_map)
    return samples.full(base=folder)


def engine(samples: Samples, edit: Callable[[Path], object]) -> Path:
    """Return a copy of the swappable engine, something done to it; its times are kept."""
    target = samples.tmp / "engine"
    shutil.copytree(samples.swappable, target)
    edit(target)
    return target


def manifest(samples: Samples, **changes: object) -> Path:
    return engine(samples, lambda folder: edit_json(folder / "engine.json", **changes))


def run(folder: Path, *flags: object) -> list[object]:
    return ["run", folder, "--save", folder.parent / "sample.safetensors", *flags]


def altered(samples: Samples, edit: Callable[[dict[str, np.ndarray]], object], **meta: str) -> Path:
    """Return the canonical adapter with its tensors edited."""
    with safe_open(samples.adapter, "np") as file:
        metadata = file.metadata() | meta
    tensors = load_file(samples.adapter)
    edit(tensors)
    save_file(tensors, samples.tmp / "x.safetensors", metadata=metadata)
    return samples.tmp / "x.safetensors"


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float32)


def replace_by_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def link_out(folder: Path) -> None:
    path = folder / "model.onnx"
    path.rename(folder.parent / "elsewhere.onnx")
    path.symlink_to(folder.parent / "elsewhere.onnx")


def overwrite(folder: Path) -> None:
    path = next((folder / "weights").glob("constants*"))
    data = path.read_bytes()
    path.write_bytes(bytes(len(data)))


LA, LB = f"transformer.{Q}.lora_A.weight", f"transformer.{Q}.lora_B.weight"
A, B = f"{Q}.lora_A", f"{Q}.lora_B"


@dataclass(frozen=True)
class Case:
    """A broken input: what is called with it, and what the error says."""

    argv: Callable[[Samples], list[object]]
    says: str
    code: int = 1


def left_behind(samples: Samples) -> list[str]:
    found = [p.name for p in samples.tmp.rglob("*") if p.name.endswith((".draft", ".tmp"))]
    if samples.out.is_dir():
        found += [p.name for p in samples.out.iterdir() if not p.name.startswith(".")]
    return found


def check(samples: Samples, case: Case, outcome: Outcome) -> None:
    lines = outcome.err.splitlines()
    errors = [line for line in lines if line.startswith("error: ")]
    assert outcome.code == case.code
    assert len(errors) == 1, outcome.err
    after = lines[lines.index(errors[0]) + 1 :]
    assert len(after) <= 1
    assert all(line.startswith("hint: ") for line in after)
    assert "Traceback" not in outcome.err
    assert not outcome.out
    assert left_behind(samples) == []
    assert re.search(case.says, errors[0] + "".join(after)), outcome.err
