"""Quantities as people read them: four significant digits, a unit that suits a whole column."""

from __future__ import annotations

import math
from collections.abc import Iterable

__all__ = ["BYTES", "FLOPS", "RATES", "SECONDS", "SI", "Unit", "parse_bytes", "pick", "shorten",
           "show", "show_bytes", "show_share", "show_si", "significant_decimals"]  # fmt: skip

Unit = tuple[float, str]

SECONDS: tuple[Unit, ...] = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))
RATES: tuple[Unit, ...] = ((1e6, "M"), (1e3, "k"), (1.0, ""))
FLOPS: tuple[Unit, ...] = ((1e12, "TFLOP/s"), (1e9, "GFLOP/s"), (1e6, "MFLOP/s"))
BYTES: tuple[Unit, ...] = ((2.0**30, "GiB"), (2.0**20, "MiB"), (2.0**10, "KiB"))
SI: tuple[Unit, ...] = (
    (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "u"),
)  # fmt: skip


def pick(units: Iterable[Unit], value: float) -> Unit:
    """Return the largest unit that isn't larger than the value, or else the smallest."""
    ordered = tuple(units)
    return next((unit for unit in ordered if value >= unit[0]), ordered[-1])


def show(value: float, unit: Unit) -> str:
    """Return four significant digits and the unit."""
    return f"{value / unit[0]:.{significant_decimals(value / unit[0])}f} {unit[1]}".rstrip()


def show_si(value: float, name: str) -> str:
    """Return four significant digits and a decimal prefix before the unit's name: 1.234 GB."""
    size, prefix = pick(SI, value) if value else (1.0, "")
    return show(value, (size, f"{prefix}{name}"))


def show_bytes(size: int | None, unit: Unit | None = None) -> str:
    """Return a size with one decimal, or a dash if it isn't known.

    Args:
        size: in bytes.
        unit: a whole column's; by default what suits the size.
    """
    if size is None:
        return "-"
    if unit is None and size < 2**10:
        return f"{size} B"
    scale, name = unit or pick(BYTES, size)
    return f"{size / scale:.1f} {name}"


def show_share(share: float) -> str:
    """Return a part of one in per cent, with one decimal: 98.1 %."""
    return f"{100 * share:z.1f} %"


def parse_bytes(text: str) -> int:
    """Return the bytes of a size that is written with its unit: 4GiB, 512 MiB, 1.5GB.

    Raises:
        ValueError: it isn't one; a number alone is refused, since bytes are never meant.
    """
    from pydantic import ByteSize, TypeAdapter  # slow to import, and flags are rarely sizes

    if not text.strip()[-1:].isalpha():
        raise ValueError(f"{text!r} has no unit")
    return int(TypeAdapter(ByteSize).validate_python(text))


def shorten(label: str, limit: int) -> str:
    """Return a label of at most `limit` characters, its middle left out."""
    if len(label) <= limit:
        return label
    half = (limit - 1) // 2
    return f"{label[: limit - 1 - half]}…{label[-half:]}"


def significant_decimals(value: float) -> int:
    """Return how many decimals make four significant digits."""
    return max(0, 3 - math.floor(math.log10(value))) if value > 0 else 0
