"""Whether this CPU adds products of u8 and s8 exactly."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__all__ = ["saturates"]

EXACT = {"avx_vnni", "avx512_vnni", "amx_int8"}


@cache
def saturates(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Tell whether pairs of u8 x s8 products may saturate in 16 bits: x86 without VNNI or AMX.

    Where it can't be known it counts as saturating: products that don't are right, and only slower.
    """
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return True
    flags = next((line.split() for line in lines if line.startswith("flags")), [])
    return not EXACT.intersection(flags)
