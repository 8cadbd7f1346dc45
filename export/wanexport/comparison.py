"""What `wanexport compare` finds out: how far an engine's outputs are from another's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wanexport.errors import ConfigError
from wanexport.model.config import Size
from wanexport.storage.dtypes import torch_dtype
from wanexport.verify.built_engine import open_built, size_of
from wanexport.verify.distance import Distance, measure_distance
from wanexport.verify.side import Side
from wanexport.verify.twin import twin_inputs, twin_size
from wanrt.engine.engine import DeviceKind
from wanrt.engine.inputs import make_inputs
from wanrt.manifest.folder import EngineFolder, open_folder
from wanrt.terminal.progress import Reporter

__all__ = ["Comparison", "compare_engines"]

TOLERANCES = {"fp32": 1e-5, "fp16": 5e-3, "bf16": 3e-2}
"""Relative L2 distances that rounding explains; 2 of I2V-14B's layers in bf16 are 6e-3 off."""


@dataclass(frozen=True)
class Comparison:
    """How far A's outputs are from B's.

    Args:
        a: what A is, and what ran it.
        b: the same of B.
        inputs: what both were fed.
        distances: of every output; of stem, blocks and head, if they were run one by one.
        tolerance: the relative L2 distance up to which they count as equal.
        note: what a reader has to know besides; may be empty.
    """

    a: str
    b: str
    inputs: str
    distances: tuple[Distance, ...]
    tolerance: float
    note: str = ""

    @property
    def first_off(self) -> Distance | None:
        """The first distance that exceeds the tolerance; None if none does."""
        return next((one for one in self.distances if not one.within(self.tolerance)), None)


def compare_engines(
    engine: Path,
    other: Path | None,
    reporter: Reporter,
    *,
    blocks: bool = False,
    adapter: Path | None = None,
    workload: str | None = None,
    seed: int = 0,
    device: DeviceKind | None = None,
    tolerance: float | None = None,
) -> Comparison:
    """Run two engines on the same inputs and compare what comes out.

    Args:
        engine: the engine folder A.
        other: the engine folder B; None is diffusers' model with A's weights.
        reporter: receives progress.
        blocks: run the graphs of both on ONNX Runtime, at a small size, and compare the outputs of
            stem, every block and head instead.
        adapter: a canonical adapter for those of the two that can swap.
        workload: whose shapes to use; by default the first that both have.
        seed: of the inputs.
        device: where engines run; by default where their backends do.
        tolerance: the relative L2 distance up to which they count as equal.

    Raises:
        WanrtError: an engine can't be loaded, or can't take the adapter.
        ConfigError: the two take different inputs, or nothing can take the adapter.
    """
    folders = [open_folder(path) for path in (engine, other) if path is not None]
    name = _common_workload(folders, workload)
    if adapter is not None and not any(folder.manifest.adapter_inputs for folder in folders):
        raise ConfigError("--adapter has no effect: no engine here can swap", "leave it out")
    opened = [open_built(folder, adapter) for folder in folders]
    if opened[0].arch != opened[-1].arch:
        raise ConfigError(
            f"{engine} and {other} are of different models", "compare engines of one model"
        )
    sides = Side(opened[0], reporter), Side(opened[-1], reporter, is_reference=other is None)
    if tolerance is None:
        tolerance = _explained(sides, blocks)
    if blocks:
        return _compare_pieces(sides, size_of(folders[0].manifest.workloads[name]), tolerance)
    inputs = _draw_inputs(folders, name, seed)
    a, b = (side.run(inputs, name, adapter, device) for side in sides)
    return Comparison(
        sides[0].describe_run(device),
        sides[1].describe_run(device),
        f"{name}, seed {seed}",
        tuple(measure_distance(output, a[output], b[output]) for output in a),
        tolerance,
    )


def _explained(sides: tuple[Side, Side], blocks: bool) -> float:
    """Return the distance that rounding explains: of weights, unless both sides' are the same."""
    a, b = sides
    if blocks and b.is_reference and a.dtype == "bf16":  # bf16 weights, computed with in fp32
        return TOLERANCES["fp32"]
    return max(TOLERANCES[side.dtype] for side in sides)


def _common_workload(folders: Sequence[EngineFolder], wanted: str | None) -> str:
    """Return the workload whose shapes all engines take."""
    first, last = (folder.manifest.workloads for folder in (folders[0], folders[-1]))
    for name, workload in first.items():
        if wanted in (None, name) and name in last and last[name].shapes == workload.shapes:
            return name
    if wanted is not None and wanted not in first:
        raise ConfigError(
            f"{folders[0].path} has no workload {wanted!r}", f"it has: {', '.join(first)}"
        )
    both = (f"{folder.path} those of {_show_inputs(folder)}" for folder in folders)
    raise ConfigError(
        f"the engines take different inputs: {', '.join(both)}",
        "compare engines of one model and size",
    )


def _show_inputs(folder: EngineFolder) -> str:
    return f"{folder.manifest.model} {', '.join(folder.manifest.workloads)}"


def _draw_inputs(folders: Sequence[EngineFolder], name: str, seed: int) -> dict[str, Tensor]:
    """Return the data inputs in fp32, as values that every engine's dtype can hold."""
    manifest = folders[0].manifest
    drawn = make_inputs(manifest, manifest.workloads[name], seed)
    inputs = {key: torch.from_numpy(value.astype(np.float32)) for key, value in drawn.items()}
    return _round_inputs(inputs, {folder.manifest.dtype for folder in folders})


def _round_inputs(inputs: dict[str, Tensor], dtypes: set[str]) -> dict[str, Tensor]:
    rounded = dict(inputs)
    for name in inputs.keys() - {"timestep"}:
        for dtype in sorted(dtypes):
            rounded[name] = rounded[name].to(torch_dtype(dtype)).float()
    return rounded


def _compare_pieces(sides: tuple[Side, Side], size: Size, tolerance: float) -> Comparison:
    """Run stem, blocks and head of both; a block's inputs are its own side's outputs before it."""
    a, b = sides
    small = twin_size(a.engine.arch, size, math.lcm(a.manifest.cards, b.manifest.cards))
    inputs = twin_inputs(a.engine.spec(small))
    if "fp16" in (a.manifest.dtype, b.manifest.dtype):
        inputs = _round_inputs(inputs, {"fp16"})
    pieces = dict(a.run_pieces(small, inputs))
    distances = tuple(
        measure_distance(name, pieces.pop(name), value)
        for name, value in b.run_pieces(small, inputs)
    )
    plans = [str(side.engine.folder.path) for side in sides if side.is_plan]
    note = (
        f"Graphs are compared, on ONNX Runtime: the compiled plan of {' and '.join(plans)} isn't "
        "run. On a GPU, compare without --blocks to see what the plan computes."
    )
    return Comparison(
        a.describe_pieces(),
        b.describe_pieces(),
        f"{small.name}, {small.tokens} tokens, seed 0",
        distances,
        tolerance,
        note if plans else "",
    )
