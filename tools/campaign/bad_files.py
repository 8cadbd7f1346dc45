"""Files and folders that no command can use, made where one is to be named."""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file, save_file

__all__ = ["KINDS", "make_bad"]

Maker = Callable[[Path, Path, random.Random], None]
"""Makes a path, given a valid file or folder of the kind that is expected."""

VALUES: tuple[object, ...] = (
    None, True, -1, 0, 1e308, 1 << 62, 10**30, "", "x" * 300, "\x1b[2J", "\u202e", "\ud800",
    "../..", "/dev/zero", [], {}, [1], {"a": 1},
)  # fmt: skip


def make_bad(kind: str, path: Path, valid: Path | None, rng: random.Random) -> None:
    """Make what is wrong at a path, from a copy of something valid where the kind needs one."""
    KINDS[kind](path, valid or path.with_name("missing"), rng)


def _write(data: bytes) -> Maker:
    def make(path: Path, _valid: Path, _rng: random.Random) -> None:
        path.write_bytes(data)

    return make


def _copy(path: Path, valid: Path) -> list[Path]:
    """Copy something valid; return its files, those first that say what the others are."""
    if valid.is_dir():
        shutil.copytree(valid, path)
        files = [file for file in sorted(path.rglob("*")) if file.is_file()]
        return sorted(files, key=lambda file: file.suffix != ".json")
    if valid.is_file():
        shutil.copy2(valid, path)
        return [path]
    path.write_bytes(b"")
    return [path]


def _choose(files: list[Path], rng: random.Random) -> Path:
    return files[0] if rng.random() < 0.6 else rng.choice(files)


def _cut(path: Path, valid: Path, rng: random.Random) -> None:
    file = _choose(_copy(path, valid), rng)
    os.truncate(file, rng.randrange(file.stat().st_size + 1))


def _flip(path: Path, valid: Path, rng: random.Random) -> None:
    file = _choose(_copy(path, valid), rng)
    data = bytearray(file.read_bytes())
    for _ in range(rng.choice((1, 1, 8))):
        if data:
            head = min(len(data), rng.choice((16, 600, len(data))))
            data[rng.randrange(head)] = rng.randrange(256)
    file.unlink()  # it may be shared with what is valid
    file.write_bytes(data)


def _lose(path: Path, valid: Path, rng: random.Random) -> None:
    rng.choice(_copy(path, valid)).unlink()


def _change_json(path: Path, valid: Path, rng: random.Random) -> None:
    """Change a value of the JSON in a file or at its head."""
    file = _copy(path, valid)[0]
    data = file.read_bytes()
    try:
        length = 0 if data[:1] == b"{" else struct.unpack("<Q", data[:8])[0]
        held = json.loads(data[8 : 8 + length] if length else data)
    except (struct.error, ValueError):
        return
    for _ in range(rng.choice((1, 1, 2))):
        _change(held, rng)
    text = json.dumps(held).encode()
    file.unlink()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :] if length else text)


def _change(held: object, rng: random.Random) -> None:
    here: Any = held
    while isinstance(here, dict | list) and here:
        key = rng.choice(list(here) if isinstance(here, dict) else range(len(here)))
        below = here[key]
        if not isinstance(below, dict | list) or not below or rng.random() < 0.2:
            if rng.random() < 0.2:
                del here[key]
            else:
                here[key] = rng.choice(VALUES)
            return
        here = below


def _change_tensor(path: Path, valid: Path, rng: random.Random) -> None:
    """Give a tensor values or a shape that it can't have, or another name."""
    files = [file for file in _copy(path, valid) if file.suffix == ".safetensors"]
    if not files:
        return
    tensors = load_file(files[0])
    name = rng.choice(sorted(tensors))
    tensor = tensors.pop(name)
    change = rng.randrange(7)
    if change == 0:
        tensors[name] = np.full_like(tensor, rng.choice((np.nan, np.inf, 3e38)))
    elif change == 1:
        tensors[name] = tensor.reshape(-1)[: max(1, tensor.size // 2)].copy()
    elif change == 2:
        tensors[name] = tensor.astype(rng.choice((np.int8, np.int64, np.float64, np.bool_)))
    elif change == 3:
        tensors[name + rng.choice(("x", ".alpha", "\n", "\x1b[2J", "\u202e"))] = tensor
    elif change == 4:
        tensors |= {f"{name}.{n}": np.zeros(1, np.float32) for n in range(70_000)}
    elif change == 5:
        tensors[name] = np.zeros((0, *tensor.shape[1:]), tensor.dtype)
    files[0].unlink()
    save_file(tensors, files[0])


def _socket(path: Path, _valid: Path, _rng: random.Random) -> None:
    with socket.socket(socket.AF_UNIX) as end:
        here = Path.cwd()
        os.chdir(path.parent)  # names of sockets are short
        try:
            end.bind(path.name)
        finally:
            os.chdir(here)


def _dangle(path: Path, _valid: Path, _rng: random.Random) -> None:
    path.symlink_to("nowhere")


def _loop(path: Path, _valid: Path, _rng: random.Random) -> None:
    path.symlink_to(path.name)


def _device(path: Path, _valid: Path, rng: random.Random) -> None:
    path.symlink_to(rng.choice(("/dev/zero", "/dev/null", "/dev/full", "/proc/self/mem")))


def _noise(path: Path, _valid: Path, rng: random.Random) -> None:
    path.write_bytes(rng.randbytes(rng.choice((1, 8, 300, 5000))))


def _sparse(path: Path, _valid: Path, rng: random.Random) -> None:
    path.write_bytes(struct.pack("<Q", rng.choice((2, 1 << 20, 1 << 40))) + b"{}")
    os.truncate(path, rng.choice((10, 100 << 20, 64 << 30)))


KINDS: dict[str, Maker] = {
    "missing": lambda _path, _valid, _rng: None,
    "empty": _write(b""),
    "a folder": lambda path, _valid, _rng: path.mkdir(),
    "a pipe": lambda path, _valid, _rng: os.mkfifo(path),
    "a device": _device,
    "a socket": _socket,
    "a dangling link": _dangle,
    "a loop of links": _loop,
    "a web page": _write(b"<!doctype html><html><title>404</title></html>"),
    "a pickle": _write(pickle.dumps({"blocks.0.attn2.to_q.weight": [1.0]})),
    "a zip": _write(b"PK\x03\x04" + bytes(60)),
    "an LFS pointer": _write(
        b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"
    ),
    "deep JSON": _write(b"[" * 100_000),
    "JSON": _write(b'{"schema": 3, "a": NaN}'),
    "TOML": _write(b'name = ""\n[architecture]\nnum_layers = 99999999\n'),
    "noise": _noise,
    "sparse": _sparse,
    "cut short": _cut,
    "bytes changed": _flip,
    "a file missing": _lose,
    "JSON changed": _change_json,
    "JSON changed twice": _change_json,
    "a tensor changed": _change_tensor,
}
