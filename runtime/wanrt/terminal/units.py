"""Quantities as people read them: four significant digits, a unit that suits a whole column."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["BYTES", "FLOPS", "RATES", "SECONDS", "Unit", "pick", "shorten", "show", "show_bytes"]

Unit = tuple[float, str]

SECONDS: tuple[Unit, ...] = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
RATES: tuple[Unit, ...] = ((1e6, "M"), (1e3, "k"), (1.0, ""))
FLOPS: tuple[Unit, ...] = ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"))
BYTES: tuple[Unit, ...] = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))


def pick(units: Iterable[Unit], value: float) -> Unit:
    """Return the largest unit that isn't larger than the value, or else the smallest."""
    ordered = tuple(units)
    return next((unit for unit in ordered if value >= unit[0]), ordered[-1])


def show(value: float, unit: Unit) -> str:
    """Return four significant digits and the unit."""
    return f"{_significant(value / unit[0])} {unit[1]}".rstrip()


def show_bytes(size: int | None, unit: Unit) -> str:
    """Return a size with one decimal, or a dash if it isn't known."""
    return "-" if size is None else f"{size / unit[0]:.1f} {unit[1]}"


def shorten(label: str, limit: int) -> str:
    """Return a label of at most `limit` characters, its middle left out."""
    if len(label) <= limit:
        return label
    half = (limit - 1) // 2
    return f"{label[: limit - 1 - half]}…{label[-half:]}"


def _significant(value: float) -> str:
    if value <= 0:
        return "0"
    return f"{value:.{max(0, 3 - math.floor(math.log10(value)))}f}"
