"""Folders that training left behind, and the command that makes a checkpoint of each kind."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from wanexport.errors import CheckpointError
from wanexport.storage.foreign_file import PICKLES, show_conversion

__all__ = ["refuse_training_state"]


def refuse_training_state(folder: Path) -> None:
    """Refuse a folder whose weights are there, but sharded by a trainer or pickled."""
    places = [folder, *sorted(path for path in folder.iterdir() if path.is_dir())]
    for place in places:
        for kind, hint in _kinds(place):
            raise CheckpointError(f"{place} holds {kind}", hint)


def _kinds(folder: Path) -> Iterator[tuple[str, str]]:
    source = shlex.quote(str(folder))
    out = shlex.quote(f"{folder}-converted")
    if any(folder.glob("*_model_states.pt")) or (folder / "zero_to_fp32.py").is_file():
        root = folder.parent if any(folder.glob("*_model_states.pt")) else folder
        command = "python -m deepspeed.utils.zero_to_fp32"
        yield (
            "a DeepSpeed checkpoint, one part per process",
            f"{command} {shlex.quote(str(root))} {out} --safe_serialization",
        )
    elif (folder / ".metadata").is_file() and any(folder.glob("*.distcp")):
        if folder.name.startswith("pytorch_model_fsdp"):
            yield (
                "an FSDP checkpoint of accelerate's, one part per process",
                f"accelerate merge-weights {source} {out}",
            )
        else:
            yield (
                "a distributed checkpoint (DCP), one part per process",
                f"python -m torch.distributed.checkpoint.format_utils dcp_to_torch {source} "
                f"{shlex.quote(f'{folder}.pt')}, then give {folder}.pt",
            )
    else:
        yield from _pickled(folder)


def _pickled(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield the pickles of a folder that may be a model's: optimizers and the like aren't."""
    aside = ("optimizer", "scheduler", "random_states", "training_args", "models_t5", "rng_state")
    found = [
        path
        for path in sorted(folder.iterdir())
        if path.suffix in PICKLES and not path.name.lower().startswith(aside)
    ]
    if found:
        yield "a pickle; loading one can run whatever code it holds", show_conversion(found)
