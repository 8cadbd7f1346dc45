"""SIGTERM and SIGHUP end a command as Ctrl-C does, so that what it has half made is removed."""

from __future__ import annotations

import _thread
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["end_like_ctrl_c", "leave_to_parent", "uninterrupted"]

ENDING = (signal.SIGTERM, signal.SIGHUP)


class _State:
    """How many `uninterrupted` steps are under way, and whether a signal waits for their end."""

    held = 0
    waiting = False


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put an interrupt off until some short steps are done that belong together.

    A temporary file that is made, but not yet known to what removes it, would stay.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the main thread's
        return
    _State.held += 1
    try:
        yield
    finally:
        _State.held -= 1
        if _State.waiting and not _State.held:
            _State.waiting = False
            raise KeyboardInterrupt


def end_like_ctrl_c() -> None:
    """Make the signals that containers, Slurm and closed terminals send raise KeyboardInterrupt.

    One that the caller ignores (nohup) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    sys.unraisablehook = _interrupt_again
    for number in (*ENDING, signal.SIGINT):
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, _interrupt)


def leave_to_parent() -> None:
    """Ignore what a whole process group gets: the parent ends its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in ENDING:  # a handler isn't inherited by what this process starts
        signal.signal(number, _leave)


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    if not _State.held:
        raise KeyboardInterrupt
    _State.waiting = True


def _interrupt_again(unraisable: sys.UnraisableHookArgs) -> None:
    """Repeat an interrupt that met a destructor, where Python prints what is raised and goes on."""
    if unraisable.exc_type is KeyboardInterrupt:
        ours = [n for n in (*ENDING, signal.SIGINT) if signal.getsignal(n) is _interrupt]
        threading.Timer(0.01, _thread.interrupt_main, ours[:1]).start()
    else:
        sys.__unraisablehook__(unraisable)


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: it isn't this process's to decide."""
