"""What both commands print: files' own words can't move the cursor or pose as other lines."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import TextIO

from wanrt.errors import ResultsError

__all__ = ["print_line", "print_result", "visible"]

REDIRECT = "send it somewhere else: > FILE"
KEPT = "\n\N{NO-BREAK SPACE}"


def visible(text: str) -> str:
    """Return text with what a terminal obeys instead of showing it written as escapes.

    Control characters, escape sequences, marks that turn the direction of text and bytes that
    aren't UTF-8 come from names in files: tensors, engines, tools. Line breaks stay.
    """
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(
        character if character.isprintable() or character in KEPT else _escape(character)
        for character in text
    )


def print_line(text: str, file: TextIO | None = None, end: str = "\n") -> None:
    """Print text visibly; a character that the stream's encoding lacks is escaped too.

    Args:
        text: what to print.
        file: stdout by default.
        end: printed after it.

    Raises:
        ResultsError: the stream is closed, its reader is gone, or its disk is full.
    """
    stream = file or sys.stdout
    if stream is None:  # the process was started without one
        raise ResultsError("standard output is closed", REDIRECT)
    encoding = stream.encoding or "utf-8"
    shown = visible(text).encode(encoding, "backslashreplace").decode(encoding)
    try:
        print(shown, end=end, file=stream, flush=True)
    except OSError as error:
        _silence(stream)
        raise ResultsError(f"what was found can't be printed: {error.strerror}", REDIRECT) from None


def print_result(text: str) -> None:
    """Print on stdout what took long to find; if that fails, on stderr, so that it isn't lost.

    Raises:
        ResultsError: stdout is closed, its reader is gone, or its disk is full.
    """
    try:
        print_line(text, end="")
    except ResultsError:
        print_line(text, sys.stderr, end="")
        raise


def _silence(stream: TextIO) -> None:
    """Send what is left to nowhere, so that Python's own last flush doesn't fail as well."""
    with contextlib.suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
