"""SIGTERM and SIGHUP end a command as Ctrl-C does, so that what it has half made is removed."""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import NoReturn

__all__ = ["end_like_ctrl_c", "leave_to_parent"]

ENDING = (signal.SIGTERM, signal.SIGHUP)


def end_like_ctrl_c() -> None:
    """Make the signals that containers, Slurm and closed terminals send raise KeyboardInterrupt.

    One that the caller ignores (nohup) stays ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    for number in ENDING:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _interrupt)


def leave_to_parent() -> None:
    """Ignore what a whole process group gets: the parent ends its children."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for number in ENDING:  # a handler isn't inherited by what this process starts
        signal.signal(number, _leave)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _leave(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: it isn't this process's to decide."""
