"""How many cores and how much memory this process may use."""

from __future__ import annotations

import math
import os
from pathlib import Path

import psutil

__all__ = ["available_bytes", "usable_cores"]

CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return how many physical cores this process may use: affinity and cgroup quota count."""
    cores = psutil.cpu_count(logical=False) or 1
    if hasattr(os, "sched_getaffinity"):
        cores = min(cores, len(os.sched_getaffinity(0)))
    return max(1, min(cores, _quota()))


def available_bytes() -> int:
    """Return how much memory could be taken without swapping; a cgroup's limit counts."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = int((CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        stat = (CGROUP / "memory.stat").read_text(encoding="ascii")
        fields = dict(line.split() for line in stat.splitlines())
        cache = int(fields["inactive_file"]) + int(fields["active_file"])  # given up when needed
    except (OSError, ValueError, KeyError):  # no cgroup v2, or "max"
        return available
    return max(0, min(available, limit - used + cache))


def _quota() -> int:
    try:
        quota, period = (CGROUP / "cpu.max").read_text(encoding="ascii").split()
        return math.ceil(int(quota) / int(period))
    except (OSError, ValueError):  # no cgroup v2, or "max"
        return os.cpu_count() or 1
