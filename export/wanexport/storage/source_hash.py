"""A hash of Python packages that only what they do can change: the code that shapes an engine.

Comments, docstrings, blank lines and how lines are wrapped don't count, nor does the Python that
asks: it stands alone, so that any interpreter can run it, `python source_hash.py ROOT PACKAGE...`.
"""

from __future__ import annotations

import hashlib
import io
import sys
import tokenize
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

__all__ = ["hash_packages", "list_tokens"]

# what a line consists of when nothing is on it
SILENT = {tokenize.COMMENT, tokenize.NL, tokenize.ENCODING, tokenize.ENDMARKER}
LAYOUT = {tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT}


@cache
def hash_packages(root: Path, packages: tuple[str, ...]) -> str:
    """Return a hash of all modules of some packages of a folder, at any depth of theirs."""
    digest = hashlib.sha256()
    for path in sorted(path for name in packages for path in (root / name).rglob("*.py")):
        digest.update(f"{path.relative_to(root).as_posix()}\0".encode())
        for token in list_tokens(path.read_text(encoding="utf-8")):
            digest.update(f"{token}\0".encode())
    return digest.hexdigest()


def list_tokens(source: str) -> Iterator[str]:
    """Yield a module's tokens, docstrings left out; an f-string is one, whatever is in it.

    From Python 3.12 on an f-string comes in pieces: they are put together by where they lie.
    """
    statement: list[tuple[int, str]] = []
    for kind, text in _whole_strings(source):
        if kind in SILENT:
            continue
        if kind not in LAYOUT:
            statement.append((kind, text))
            continue
        if any(kind != tokenize.STRING for kind, _ in statement):
            yield from (text for _, text in statement)
            yield "NEWLINE"
        statement = []
        if kind != tokenize.NEWLINE:
            yield tokenize.tok_name[kind]


def _whole_strings(source: str) -> Iterator[tuple[int, str]]:
    """Yield (kind, text) of every token, an f-string as one NAME."""
    lines = list(io.StringIO(source))  # as tokenize counts them
    depth, start = 0, (0, 0)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        name = tokenize.tok_name[token.type]
        if name.endswith("STRING_START"):
            start = start if depth else token.start
            depth += 1
        elif name.endswith("STRING_END"):
            depth -= 1
            if depth == 0:
                yield tokenize.NAME, _cut(lines, start, token.end)
        elif depth == 0:
            formatted = token.type == tokenize.STRING and "f" in _prefix(token.string)
            yield (tokenize.NAME if formatted else token.type), token.string


def _prefix(literal: str) -> str:
    return literal[: min(i for i in map(literal.find, "'\"") if i >= 0)].lower()


def _cut(lines: Sequence[str], start: tuple[int, int], end: tuple[int, int]) -> str:
    span = list(lines[start[0] - 1 : end[0]])
    span[-1] = span[-1][: end[1]]  # first, for it may be the first line as well
    span[0] = span[0][start[1] :]
    return "".join(span)


if __name__ == "__main__":
    sys.stdout.write(hash_packages(Path(sys.argv[1]), tuple(sys.argv[2:])) + "\n")
