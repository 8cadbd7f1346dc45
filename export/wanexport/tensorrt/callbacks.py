"""What TensorRT's builder calls back: a logger and a progress monitor.

They derive from the selected library's classes, so import this after `nvinfer.select`.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from wanexport.tensorrt.protocol import Phase
from wanrt.backends.tensorrt import api as trt

__all__ = ["Logger", "Monitor"]

# Said at every start without a driver, and never the reason for a failure.
NOISE = re.compile(r"CUDA initialization failure|cudaError 35|CUDA error 35")


class Logger(trt.ILogger):
    """Keeps the errors that the library logs: they are all it says of why a build failed."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Keep an error."""
        if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR) and not NOISE.search(msg):
            self.errors.append(msg)


class Monitor(trt.IProgressMonitor):
    """Passes the builder's nested phases on."""

    def __init__(self, on_phase: Callable[[Phase], None]) -> None:
        trt.IProgressMonitor.__init__(self)
        self._on_phase = on_phase
        self._steps: dict[str, int] = {}

    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        """Tell that a phase began."""
        self._steps[phase_name] = num_steps
        self._on_phase(Phase(name=phase_name, parent=parent_phase, done=0, steps=num_steps))

    def step_complete(self, phase_name: str, step: int) -> bool:
        """Report how far a phase is; the build continues."""
        steps = self._steps.get(phase_name, 0)
        if step + 1 < steps:
            self._on_phase(Phase(name=phase_name, done=step + 1, steps=steps))
        return True

    def phase_finish(self, phase_name: str) -> None:
        """Tell that a phase ended."""
        steps = self._steps.pop(phase_name, 0)
        self._on_phase(Phase(name=phase_name, done=steps, steps=steps))
