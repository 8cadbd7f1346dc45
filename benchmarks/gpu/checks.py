"""`make gpu-check` of every backend, as rows; each in a process, which holds one TensorRT."""

from __future__ import annotations

import json
import subprocess
import sys

from .record import Step
from .settings import Settings


def check(settings: Settings, backend: str) -> Step:
    """Run the checks of one backend; a failed one is a row, not the end."""
    saved = settings.work / f"gpu-check-{backend}.json"
    command = [
        *(sys.executable, "-m", "benchmarks.gpu.backends"),
        *("--work", str(settings.work / "gpu-check"), "--backend", backend),
        *("--device", settings.device, "--json", str(saved)),
        *("--seconds", str(min(settings.seconds, 15.0))),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if not saved.exists():
        raise RuntimeError(done.stderr.strip()[-2000:])
    return {"rows": json.loads(saved.read_text(encoding="utf-8"))}
