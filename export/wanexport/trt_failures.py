"""What a builder's want of memory looks like, and what is said of it."""

from __future__ import annotations

from wanexport.disk import format_bytes
from wanexport.errors import BuildError

__all__ = ["exhausted", "is_exhausted"]

SIGNS = (
    "bad_alloc",
    "MemoryError",
    "OutOfMemory",
    "out of memory",
    "Cannot allocate memory",
    "CHECK(p) failed",  # Myelin's, of what it allocated
    "Resource temporarily unavailable",  # a thread that can't be started
)


def is_exhausted(told: str) -> bool:
    """Tell whether what a library or a crashed process said means want of memory."""
    return any(sign in told for sign in SIGNS)


def exhausted(limit: int | None) -> BuildError:
    """Return the error of a builder that ran out of its memory."""
    bound = "" if limit is None else f" of {format_bytes(limit)}"
    return BuildError(
        f"the builder ran out of its memory{bound}",
        "raise --memory-limit, or close what else needs memory",
    )
