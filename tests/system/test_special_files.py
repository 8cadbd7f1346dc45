"""Pipes, devices, sockets, loops of links, and names that nobody types: refused at once."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
import valid_files
from commands import wanexport, wanrt
from valid_files import Samples, left_behind

root, samples = valid_files.root, valid_files.samples  # fixtures


def _fifo(path: Path) -> str:
    os.mkfifo(path)
    return "is not a file but a pipe"


def _socket(path: Path) -> str:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)  # relative: a socket's path may have 108 bytes
    return "is not a file but a socket|No such device or address"


def _device(path: Path) -> str:
    path.symlink_to("/dev/zero")
    return "is not a file but a device|it is a link"


def _loop(path: Path) -> str:
    path.symlink_to(path.name)
    return "Too many levels of symbolic links|doesn't exist|nor in the|it is a link"


SPECIAL: dict[str, Callable[[Path], str]] = {
    "pipe": _fifo, "socket": _socket, "device": _device, "loop": _loop
}  # fmt: skip


def _beside(samples: Samples, path: Path) -> Path:
    """Copy a valid LoRA into the folder of what is to be its settings."""
    return Path(shutil.copy(samples.lora, path.with_name("lora.safetensors")))


INPUTS: dict[str, tuple[str, Callable[[Samples, Path], list[object]]]] = {
    "base": ("x.safetensors", lambda w, p: w.full(base=p)),
    "finetuned": ("x.safetensors",
                  lambda w, p: [
                      "build", "--mode", "full", "--config", w.config, "--finetuned", p]),
    "lora": ("x.safetensors", lambda w, p: w.merged(p)),
    "config": ("x.toml", lambda w, p: w.full(config=p)),
    "inspect": ("x.safetensors", lambda _, p: ["inspect", p]),
    "adapter": ("x.safetensors",
                lambda w, p: ["adapter", p, "--for", w.swappable, "-o", "o.safetensors"]),
    "engine.json": ("engine.json", lambda _, p: ["estimate", "--config", p]),
    "settings": ("adapter_config.json", lambda w, p: w.merged(_beside(w, p))),
}  # fmt: skip
RUNTIME: dict[str, tuple[str, Callable[[Samples, Path], list[object]]]] = {
    "inputs": ("x.safetensors",
               lambda w, p: ["run", w.separate, "--inputs", p, "--save", "o.safetensors"]),
    "adapter": ("x.safetensors",
                lambda w, p: ["run", w.swappable, "--adapter", p, "--save", "o.safetensors"]),
    "results": ("x.json", lambda _, p: ["report", p]),
    "compare": ("x.json", lambda w, p: ["bench", w.separate, "--compare", p]),
    "resume": ("x.json", lambda w, p: ["bench", w.separate, "--resume", "--json", p]),
    "engine": ("x", lambda _, p: ["info", p]),
}  # fmt: skip


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("where", INPUTS)
def test_what_wanexport_reads(samples: Samples, kind: str, where: str) -> None:
    name, arguments = INPUTS[where]
    _check(samples, wanexport, SPECIAL[kind](samples.tmp / name), arguments, samples.tmp / name)


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("where", RUNTIME)
def test_what_wanrt_reads(samples: Samples, kind: str, where: str) -> None:
    name, arguments = RUNTIME[where]
    _check(samples, wanrt, SPECIAL[kind](samples.tmp / name), arguments, samples.tmp / name)


def _check(
    samples: Samples,
    command: Callable[..., tuple[int, str, str]],
    says: str,
    arguments: Callable[[Samples, Path], list[object]],
    path: Path,
) -> None:
    before = os.lstat(path)
    code, out, err = command(*arguments(samples, path))
    assert (code, out) == (1, "")
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    assert any(part in " ".join(err.split()) for part in [*says.split("|"), "not an engine"]), err
    assert os.lstat(path).st_ino == before.st_ino
    assert left_behind(samples) == []
