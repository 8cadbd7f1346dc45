"""One thread at a time: an engine in use refuses a second caller."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from threading import RLock
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from wanrt.errors import EngineError

__all__ = ["InUse", "exclusive"]

_P = ParamSpec("_P")
_R = TypeVar("_R")
InUse = RLock
"""What an engine holds while a thread is in one of its methods; that thread may call others."""


class _Used(Protocol):
    @property
    def _folder(self) -> Path: ...
    @property
    def _in_use(self) -> RLock: ...


_S = TypeVar("_S", bound=_Used)


def exclusive(
    method: Callable[Concatenate[_S, _P], _R],
) -> Callable[Concatenate[_S, _P], _R]:
    """Let a method refuse to run while another thread is in one of the same engine.

    Two forwards at once share buffers, so that outputs would be silently wrong. Waiting would hide
    that an engine is shared, so it is an error.

    Raises:
        EngineError: another thread uses the engine.
    """

    @wraps(method)
    def guarded(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        if not self._in_use.acquire(blocking=False):
            raise EngineError(
                f"{self._folder} is in use by another thread",
                "load one engine per thread, or let callers wait for each other with a lock",
            )
        try:
            return method(self, *args, **kwargs)
        finally:
            self._in_use.release()

    return guarded
