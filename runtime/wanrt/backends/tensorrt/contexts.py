"""The device memory of a split engine's contexts."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Iterator
from itertools import count

from wanrt.backends.tensorrt.memory import Blocks
from wanrt.engine.context import Context

__all__ = ["HeldContexts"]


class HeldContexts:
    """Blocks of device memory by context, for as long as somebody has the context.

    Python may let go of an object at any moment, also while a CUDA graph is captured, when memory
    can't be freed. So what nobody has any more is noted, and freed when the engine says so.
    """

    def __init__(self) -> None:
        self._blocks: dict[int, Blocks] = {}
        self._numbers: weakref.WeakKeyDictionary[Context, int] = weakref.WeakKeyDictionary()
        self._dropped: deque[int] = deque()
        self._count = count(1)

    def hold(self, context: Context, blocks: Blocks) -> None:
        """Hold the blocks that a context's values are in."""
        number = next(self._count)
        self._blocks[number], self._numbers[context] = blocks, number
        weakref.finalize(context, self._dropped.append, number).atexit = False

    def number(self, context: Context) -> int:
        """Return what tells a held context from all others that there ever were."""
        return self._numbers[context]

    def sweep(self) -> Iterator[int]:
        """Free the memory of contexts that nobody has any more; yield their numbers before."""
        while self._dropped:
            number = self._dropped.popleft()
            if number in self._blocks:
                yield number
                self._blocks.pop(number).close()

    def close(self) -> None:
        """Free all; contexts that somebody still has are of no use afterwards."""
        while self._blocks:
            self._blocks.popitem()[1].close()
