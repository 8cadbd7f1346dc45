"""What a checkpoint holds, and which configuration's model it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wanexport.checkpoint.open import Checkpoint, open_checkpoint
from wanexport.errors import CheckpointError
from wanexport.inspection.contents import count_dtypes, count_parameters, is_random
from wanexport.inspection.description import Description
from wanexport.lora.problems import LoraProblem
from wanexport.model.config import Architecture, Config, list_configs, load_config
from wanexport.storage.tensor_file import SafetensorsFile, TensorRef
from wanexport.storage.values import all_finite, one_thread
from wanrt.terminal.progress import Reporter
from wanrt.terminal.text import first_three

if TYPE_CHECKING:
    import torch

__all__ = ["describe_checkpoint"]

NEAR = 2  # a configuration is near that differs in so many sizes at most

Differences = dict[str, tuple[object, object]]


def describe_checkpoint(
    path: Path,
    files: Sequence[SafetensorsFile],
    configs: Sequence[Config],
    reporter: Reporter,
    *,
    read_values: bool,
) -> Description:
    """Describe a checkpoint by the configuration that is nearest.

    Args:
        path: its folder or file.
        files: its files.
        configs: what it may be for; a single one was asked for.
        reporter: where the reading of values is shown.
        read_values: whether to look for values that aren't finite, a block of rows at a time.
    """
    found, problems = _open(path)
    if found and read_values:
        problems += _find_bad_values(found, reporter)
    arch = found.architecture if found else None
    differing = {c.name: _differ(arch, c.architecture) for c in configs} if arch else {}
    nearest = min(differing, key=lambda name: _distance(differing[name]), default="")
    if len(configs) > 1 and len(differing.get(nearest, {})) > NEAR:
        nearest = ""
    return Description(
        path=path,
        what="checkpoint",
        dialect=f"{found.layout} names" if found else "not a whole Wan2.1 DiT",
        tensors=sum(len(file.tensors) for file in files),
        parameters=count_parameters(files),
        dtypes=count_dtypes(files),
        random_weights=is_random(files),
        fits=_find_fits(arch, configs),
        config=nearest,
        nearest=bool(nearest) and len(configs) > 1,
        architecture=arch,
        scheme=found.scheme() if found else None,
        stripped=found.stripped if found else (),
        left_aside=found.left_aside if found else {},
        differences=differing.get(nearest, {}),
        values_read=found is not None and read_values,
        problems=tuple(problems),
    )


def _find_fits(arch: Architecture | None, configs: Sequence[Config]) -> tuple[str, ...]:
    """Return the names of the configurations that are of an architecture, also those not asked."""
    if arch is None:
        return ()
    shipped = [load_config(name) for name in list_configs()]
    named = {held.name: held for held in (*configs, *shipped)}
    return tuple(name for name, held in named.items() if held.architecture == arch)


def _open(path: Path) -> tuple[Checkpoint | None, list[LoraProblem]]:
    try:
        return open_checkpoint(str(path)), []
    except CheckpointError as error:
        return None, [LoraProblem((), str(error), error.hint)]


def _find_bad_values(checkpoint: Checkpoint, reporter: Reporter) -> list[LoraProblem]:
    """Return what is said of the tensors that hold values which aren't finite, if any does."""
    refs = sorted(checkpoint.tensors.values(), key=lambda ref: (ref.path, ref.offset))
    bad = []
    with reporter.bytes("reading values", checkpoint.nbytes) as piece, one_thread():
        for ref in refs:
            if not all(all_finite(block) for block in _read(ref)):
                bad.append(ref.name)
            piece.advance(ref.nbytes)
    if not bad:
        return []
    message = f"{checkpoint.path}: {len(bad)} tensors hold values that aren't finite: "
    return [
        LoraProblem(
            tuple(bad),
            message + first_three(bad),
            "usually the training diverged: take an earlier save of it, or load the file again",
        )
    ]


def _read(ref: TensorRef) -> Iterator[torch.Tensor]:
    return ref.read_blocks() if math.prod(ref.shape) else iter(())


def _differ(found: Architecture, wanted: Architecture) -> Differences:
    """Return the fields that differ; added_kv_proj_dim follows from others."""
    here, there = (arch.model_dump(exclude={"added_kv_proj_dim"}) for arch in (found, wanted))
    return {key: (here[key], there[key]) for key in here if here[key] != there[key]}


def _distance(differences: Mapping[str, tuple[object, object]]) -> tuple[int, float]:
    """Return how many fields differ, and by how many factors of two."""
    factors = 0.0
    for pair in differences.values():
        numbers = [float(value) for value in pair if isinstance(value, int | float)]
        factors += abs(math.log2(numbers[0] / numbers[1])) if len(numbers) == 2 else 1.0
    return len(differences), factors
