"""Find a LoRA's file from what the user typed, its name in engines, and its changes of a model."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wanexport.errors import AdapterError, ConfigError
from wanexport.lora.adapter import Adapter, resolve_adapter
from wanexport.lora.choose import Choice
from wanexport.storage.hub import cached_snapshot
from wanrt.engine.stack import split_strength
from wanrt.manifest.schema import Expert
from wanrt.storage.files import real_path
from wanrt.storage.hub import hub_file
from wanrt.terminal.progress import Reporter
from wanrt.terminal.text import counted, first_three

__all__ = ["LoraArgument", "find_lora", "name_lora", "parse_lora", "resolve_adapters"]

USUAL_NAMES = ("pytorch_lora_weights", "adapter_model")  # as diffusers and PEFT save every LoRA

PICKLES = (".bin", ".pt", ".pth", ".ckpt")


@dataclass(frozen=True)
class LoraArgument:
    """A LoRA file (or a file of a hub repository) and the strength it is applied with.

    `expert`: which of Wan2.2's two models it is for; None is either.
    """

    path: str
    strength: float = 1.0
    expert: Expert | None = None


def parse_lora(argument: str, expert: Expert | None = None) -> LoraArgument:
    """Parse FILE[:STRENGTH].

    Raises:
        ConfigError: the strength isn't a finite number.
    """
    try:
        path, strength = split_strength(argument)
    except ValueError as error:
        problem = f"{argument}: {str(error)!r} is not a strength"
        raise ConfigError(problem, "write FILE:0.8") from None
    if not math.isfinite(strength):
        raise ConfigError(f"{argument}: the strength must be finite")
    return LoraArgument(path, strength, expert)


def find_lora(name: str) -> Path:
    """Find a file, a folder with one safetensors file, or the like in the Hugging Face cache."""
    path = Path(name)
    if not path.exists():
        path = cached_snapshot(name, AdapterError)
    if path.is_dir():
        files = sorted(path.glob("*.safetensors"))
        pickles = sorted(p for p in path.iterdir() if p.suffix in PICKLES)
        if not files and pickles:  # opening one says what to do
            return pickles[0]
        if not files:
            raise AdapterError(
                f"{path} holds no safetensors file", "give a LoRA's file, or its folder"
            )
        if len(files) > 1:
            raise AdapterError(
                f"{path} holds {len(files)} safetensors files",
                f"name one: {' or '.join(map(str, files[:3]))}",
            )
        path = files[0]
    return path


def name_lora(path: Path) -> str:
    """Return a LoRA's name in engines: its file's, or its repository's if the file's is common."""
    if path.stem not in USUAL_NAMES:
        return path.stem
    cached = hub_file(path)
    if cached is None:
        return real_path(path).parent.name
    return cached.repo_path(cached.inside.parent).replace("/", "--")


def resolve_adapters(
    loras: Iterable[tuple[Path, float]],
    shapes: Mapping[str, tuple[int, ...]],
    reporter: Reporter,
    choice: Choice = Choice(),  # noqa: B008 -- frozen
) -> tuple[Adapter, ...]:
    """Read LoRA files, each with its strength; `resolve_adapter` says what it refuses."""
    with reporter.work("reading the LoRA"):
        adapters = tuple(resolve_adapter(path, shapes, s, choice) for path, s in loras)
    for adapter in adapters:
        for note in adapter.notes:
            reporter.log(f"{adapter.path}: {note}")
        if adapter.skipped:
            count = counted(len(adapter.skipped), "key")
            reporter.log(f"{adapter.path}: {count} skipped: {first_three(adapter.skipped)}")
    return adapters
