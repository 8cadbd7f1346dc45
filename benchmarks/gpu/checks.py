"""`tests/gpu/gpu_check.py` of every backend, as rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from .record import Step
from .settings import Settings

SCRIPT = Path(__file__).parents[2] / "tests" / "gpu" / "gpu_check.py"


def check(settings: Settings, backend: str) -> Step:
    """Run the checks of one backend; a failed one is a row, not the end."""
    saved = settings.work / f"gpu-check-{backend}.json"
    command = [
        *(sys.executable, str(SCRIPT), "--work", str(settings.work / "gpu-check")),
        *("--backend", backend, "--device", settings.device, "--json", str(saved)),
        *("--seconds", str(min(settings.seconds, 15.0))),
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if not saved.exists():
        raise RuntimeError(done.stderr.strip()[-2000:])
    return {"rows": json.loads(saved.read_text(encoding="utf-8"))}
