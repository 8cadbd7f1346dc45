"""Run a bf16 engine's own graph on a machine that has no bf16."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wanexport.graph.emulate import emulate
from wanrt.backends.load import load_engine

__all__ = ["emulate", "run_emulated"]


def run_emulated(folder: Path, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Run the emulated form of an engine's graph on the CPU and return its sample in fp64."""
    with load_engine(folder, emulated=True) as engine:
        return engine.forward(**feeds)["sample"].astype(np.float64)
