"""What NVIDIA's driver says of its GPUs, asked through its own tool."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Sequence

__all__ = ["query_gpus"]

PATIENCE_S = 30.0


def query_gpus(fields: Sequence[str]) -> list[list[str]] | None:
    """Return a row per GPU, in the order of PCI buses; None if the tool doesn't answer.

    Args:
        fields: as `nvidia-smi --help-query-gpu` names them; values come without their units.
    """
    query = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    rows = csv.reader(done.stdout.splitlines(), skipinitialspace=True)
    return [row for row in rows if len(row) == len(fields)]
