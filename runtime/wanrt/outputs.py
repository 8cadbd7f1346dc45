"""Whether an engine computes anything: what a reference comparison needn't be made for."""

from __future__ import annotations

import numpy as np

from wanrt.engine import Engine
from wanrt.errors import EngineError
from wanrt.inputs import make_inputs

__all__ = ["check_outputs"]


def check_outputs(engine: Engine, seed: int = 0) -> None:
    """Run every workload on seeded inputs and check that its outputs are alive.

    An engine whose weights never reached the plan gives zeros, and one whose weights are garbage
    mostly NaN. One output of other values says nothing about their being right.

    Raises:
        EngineError: an output is constant, all zeros for instance, or not finite.
    """
    for name, workload in engine.manifest.workloads.items():
        outputs = engine.forward(**make_inputs(engine.manifest, workload, seed))
        for output, array in outputs.items():
            values = array.astype(np.float32)
            where = f"{engine.manifest.name}: {output} of workload {name}"
            if not np.isfinite(values).all():
                raise EngineError(f"{where} isn't finite", "rebuild it; its weights may be garbage")
            if values.size > 1 and np.ptp(values) == 0:
                raise EngineError(
                    f"{where} is {values.flat[0]:g} everywhere",
                    "rebuild it; its weights may not have reached the plan",
                )
