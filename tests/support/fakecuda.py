"""A GPU whose memory is the host's: wanrt's `Cuda` by its contract, strict about every misuse.

What is enqueued runs at once, or with its graph. Time is what the work says it takes.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wanrt.backends.tensorrt.cuda import Gpu
from wanrt.errors import EngineError

__all__ = ["FakeCuda"]

ALIGNMENT = 256
Work = Callable[[], float]


class FakeCuda:
    """Memory, streams, events and graphs, each counted until it is given back."""

    def __init__(self, gpu: Gpu | None = None, memory: int = 1 << 30) -> None:
        self._gpu = gpu or Gpu("Fake GPU", "8.9")
        self._memory = memory
        self._blocks: dict[int, tuple[NDArray[np.uint8], int]] = {}
        self._handles = count(1)
        self._capturing: dict[int, list[Work]] = {}
        self.clock = 0.0
        self.streams: set[int] = set()
        self.events: dict[int, float | None] = {}
        self.graphs: dict[int, list[Work]] = {}
        self.captures = 0
        self.launches = 0
        self.copied: list[tuple[str, int]] = []
        self.synchronized: list[int] = []
        self.fail_mallocs_from = 1 << 60

    @property
    def taken(self) -> int:
        """Bytes of memory that are allocated."""
        return sum(size for _, size in self._blocks.values())

    @property
    def clean(self) -> bool:
        """Whether everything was given back."""
        return not (self._blocks or self.streams or self.events or self.graphs or self._capturing)

    def enqueue(self, stream: int, work: Work) -> None:
        """Do work, which returns the seconds it takes, or keep it for the graph being captured."""
        if stream in self._capturing:
            self._capturing[stream].append(work)
        else:
            self.clock += work()

    def capturing(self, stream: int) -> bool:
        """Tell whether work becomes a graph now."""
        return stream in self._capturing

    def read(self, address: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return a view of device memory, every byte of which is allocated."""
        size = int(np.prod(shape)) * dtype.itemsize
        for base, (_, length) in self._blocks.items():
            if base <= address and address + size <= base + length:
                raw = (ctypes.c_uint8 * size).from_address(address)
                return np.frombuffer(memoryview(raw).cast("B"), dtype).reshape(shape)
        raise AssertionError(f"{size} bytes at {address:#x} aren't the device's")

    def device(self) -> int:
        return 0

    def gpu(self) -> Gpu:
        return self._gpu

    def malloc(self, size: int) -> int:
        assert size > 0
        if self.taken + size > self._memory or size >= self.fail_mallocs_from:
            raise EngineError("cudaMalloc: out of memory (CUDA error 2)")
        block = np.full(size + ALIGNMENT, 0xCD, np.uint8)  # nothing is zero by itself
        address = -(-block.ctypes.data // ALIGNMENT) * ALIGNMENT
        self._blocks[address] = block, size
        return address

    def free(self, address: int) -> None:
        block, _ = self._blocks.pop(address)  # a KeyError is a double free
        block[:] = 0xEE

    def copy_in(self, to: int, source: int, size: int, stream: int) -> None:
        self._copy("in", to, source, size, stream)

    def copy_out(self, to: int, source: int, size: int, stream: int) -> None:
        self._copy("out", to, source, size, stream)

    def copy(self, to: int, source: int, size: int, stream: int) -> None:
        self._copy("on", to, source, size, stream)

    def create_stream(self) -> int:
        self.streams.add(stream := next(self._handles))
        return stream

    def destroy_stream(self, stream: int) -> None:
        self.streams.remove(stream)

    def synchronize(self, stream: int) -> None:
        assert stream not in self._capturing
        self.synchronized.append(stream)

    def create_event(self) -> int:
        self.events[event := next(self._handles)] = None
        return event

    def destroy_event(self, event: int) -> None:
        del self.events[event]

    def record(self, event: int, stream: int) -> None:
        assert event in self.events
        assert stream not in self._capturing
        self.events[event] = self.clock

    def elapsed_s(self, start: int, end: int) -> float:
        first, last = self.events[start], self.events[end]
        assert first is not None
        assert last is not None
        return last - first

    def begin_capture(self, stream: int) -> None:
        assert stream != 0
        assert stream not in self._capturing
        self._capturing[stream] = []

    def end_capture(self, stream: int) -> int:
        self.graphs[graph := next(self._handles)] = self._capturing.pop(stream)
        self.captures += 1
        return graph

    def abandon_capture(self, stream: int) -> None:
        self._capturing.pop(stream, None)

    def launch(self, graph: int, stream: int) -> None:
        assert stream not in self._capturing
        self.launches += 1
        self.clock += sum(work() for work in self.graphs[graph])

    def destroy_graph(self, graph: int) -> None:
        del self.graphs[graph]

    def _copy(self, way: str, to: int, source: int, size: int, stream: int) -> None:
        assert stream not in self._capturing
        byte = np.dtype(np.uint8)
        if way != "out":
            self.read(to, (size,), byte)
        if way != "in":
            self.read(source, (size,), byte)
        ctypes.memmove(to, source, size)
        self.copied.append((way, size))
