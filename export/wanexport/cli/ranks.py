"""Several ranks in one flag."""

from __future__ import annotations

from collections.abc import Iterable

import typer

__all__ = ["parse_ranks"]


def parse_ranks(given: Iterable[str]) -> tuple[int, ...]:
    """Return the ranks of `--rank 8,16 --rank 32`, each once and in order.

    Raises:
        typer.BadParameter: one of them isn't a positive whole number.
    """
    words = [word.strip() for text in given for word in text.split(",")]
    for word in words:
        if not (word.isascii() and word.isdigit() and int(word)):
            raise typer.BadParameter(f"--rank {word!r} isn't a rank: write --rank 8,16,32")
    return tuple(sorted({int(word) for word in words}))
