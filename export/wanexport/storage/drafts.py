"""Folders that appear whole or not at all.

A draft is a dot folder beside what it becomes, held by a lock that ends with its process. It takes
its name by a rename, or by an exchange with the folder that was there. What a killed process leaves
is a draft that nobody holds; the next one removes it.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from wanexport.storage.exchange import exchange
from wanrt.storage.interrupt import uninterrupted

__all__ = ["draft_folder", "place_draft", "sweep_drafts"]

SUFFIX = ".draft"
OLD = ".old"


@contextmanager
def draft_folder(out: Path, name: str) -> Iterator[Path]:
    """Make a folder to build in, and remove what is left of it afterwards."""
    with ExitStack() as stack:
        with uninterrupted():
            draft, handle = _make_held(out, name)
            stack.callback(_discard, draft, handle)
        draft.chmod(0o755)
        yield draft


def _discard(draft: Path, handle: int) -> None:
    with uninterrupted():
        shutil.rmtree(draft, ignore_errors=True)
        os.close(handle)


def _make_held(out: Path, name: str) -> tuple[Path, int]:
    """Make a folder and lock it; another sweep may get between the two."""
    while True:
        draft = Path(tempfile.mkdtemp(prefix=f".{name}.", suffix=SUFFIX, dir=out))
        with suppress(FileNotFoundError):
            handle = os.open(draft, os.O_RDONLY)
            fcntl.flock(handle, fcntl.LOCK_EX)
            if draft.exists():
                return draft, handle
            os.close(handle)


def place_draft(draft: Path, target: Path, *, replace: bool) -> bool:
    """Give a finished draft its name.

    Args:
        draft: the folder.
        target: what it becomes.
        replace: whether a folder that is there makes way.

    Returns:
        Whether the draft took the name; if not, something else has it.
    """
    if replace and os.path.lexists(target):
        if not exchange(draft, target):  # the draft's name now has the old one, to be removed
            _replace_in_two_steps(draft, target)
        return True
    try:
        draft.rename(target)
    except OSError:
        if os.path.lexists(target):
            return False
        raise
    return True


def _replace_in_two_steps(draft: Path, target: Path) -> None:
    """Move the old folder aside first; if this process dies then, the next sweep restores it."""
    with draft_folder(target.parent, f"{target.name}{OLD}") as aside:
        old = aside / target.name
        target.rename(old)
        try:
            draft.rename(target)
        except BaseException:
            if not os.path.lexists(target):
                old.rename(target)
            raise


def _restore(aside: Path) -> None:
    """Give a folder that was moved aside its name again, if nothing else has it."""
    name, found, _ = aside.name[1:].rpartition(f"{OLD}.")
    if found and (aside / name).is_dir() and not os.path.lexists(aside.with_name(name)):
        (aside / name).rename(aside.with_name(name))


def sweep_drafts(out: Path) -> int:
    """Remove the drafts of processes that are no more and return how many there were.

    A folder that such a process had moved aside, and not replaced yet, gets its name again.
    """
    removed = 0
    for draft in out.glob(f".*{SUFFIX}"):
        with suppress(OSError):
            handle = os.open(draft, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _restore(draft)
                shutil.rmtree(draft, ignore_errors=True)
                removed += 1
            finally:
                os.close(handle)
    return removed
