"""Files larger than memory, read once and written once, past the system's page cache.

Pages that nobody reads again soon push out what others need, and finding room for them costs more
than copying does: merging I2V-14B took 40 to 52 s through the cache and 31 s past it, on two cores
(`benchmarks/export_14b.py --only merged`).
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import mmap
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

__all__ = ["StreamWriter", "open_stream", "read_stream"]

STAGE_BYTES = 8 << 20
AHEAD = 2  # blocks
RWF_DONTCACHE = 0x80  # Linux 6.14, include/uapi/linux/fs.h; Python has no name for it yet


class StreamWriter:
    """A file written and hashed from beginning to end, while the next bytes are made.

    Bytes are gathered in two stages in turn: one is hashed and written while the other fills.
    O_DIRECT wants addresses, lengths and offsets in whole blocks of the disk, which the stages are;
    the rest at the end is written as usual. `open_stream` makes one.
    """

    def __init__(self, descriptor: int, workers: ThreadPoolExecutor) -> None:
        self._descriptor = descriptor
        self._workers = workers
        self._stages = [memoryview(mmap.mmap(-1, STAGE_BYTES)) for _ in range(2)]
        self._staged = 0
        self._under_way: list[Future[None]] = []
        self._digest = hashlib.sha256()

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes; they may be changed as soon as this returns."""
        data = memoryview(data)
        while data:
            count = min(len(data), STAGE_BYTES - self._staged)
            self._stages[0][self._staged : self._staged + count] = data[:count]
            self._staged += count
            data = data[count:]
            if self._staged == STAGE_BYTES:
                self._hand_over()

    def finish(self) -> str:
        """Write what is left and return the SHA-256 of everything, in hex."""
        self._wait()
        _use_page_cache(self._descriptor)
        self._hand_over()
        self._wait()
        return self._digest.hexdigest()

    def _hand_over(self) -> None:
        self._wait()
        stage = self._stages[0][: self._staged]
        jobs = (self._digest.update, self._put)
        self._under_way = [self._workers.submit(job, stage) for job in jobs]
        self._stages.reverse()
        self._staged = 0

    def _wait(self) -> None:
        for job in self._under_way:
            job.result()
        self._under_way = []

    def _put(self, data: memoryview) -> None:
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except OSError as error:  # some file systems take the flag and refuse the bytes
                if error.errno != errno.EINVAL or not _use_page_cache(self._descriptor):
                    raise


@contextmanager
def open_stream(path: Path) -> Iterator[StreamWriter]:
    """Create a file, or empty it, to write it from beginning to end and `finish` it."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    try:
        descriptor = os.open(path, flags | os.O_DIRECT, 0o666)
    except OSError as error:
        if error.errno != errno.EINVAL:  # this file system has no O_DIRECT
            raise
        descriptor = os.open(path, flags, 0o666)
    try:
        with ThreadPoolExecutor(2) as workers:
            yield StreamWriter(descriptor, workers)
    finally:
        os.close(descriptor)


def read_stream(path: Path, offset: int, count: int, block: int) -> Iterator[memoryview]:
    """Yield a part of a file in blocks, the next ones being read meanwhile.

    Args:
        path: the file.
        offset: where the part begins, in bytes.
        count: its length in bytes.
        block: how many bytes to yield at a time; each block is overwritten when the next is asked
            for.

    Raises:
        EOFError: the file ends before the part does.
    """
    rooms = [memoryview(mmap.mmap(-1, min(block, count))) for _ in range(AHEAD + 1)]
    with path.open("rb", buffering=0) as file, ThreadPoolExecutor(1) as worker:

        def start(begin: int) -> tuple[memoryview, Future[None]]:
            room = rooms[begin // block % len(rooms)][: count - begin]
            return room, worker.submit(_fill, file.fileno(), room, offset + begin)

        begins = iter(range(0, count, block))
        under_way = deque(start(begin) for begin in islice(begins, AHEAD))
        while under_way:
            room, reading = under_way.popleft()
            reading.result()
            under_way.extend(start(begin) for begin in islice(begins, 1))
            yield room


def _fill(descriptor: int, room: memoryview, offset: int) -> None:
    """Fill a buffer from a file; what wasn't in the page cache isn't there afterwards."""
    while room:
        try:
            count = os.preadv(descriptor, [room], offset, RWF_DONTCACHE)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise
            count = os.preadv(descriptor, [room], offset)
        if not count:
            raise EOFError
        room, offset = room[count:], offset + count


def _use_page_cache(descriptor: int) -> bool:
    """Switch O_DIRECT off and tell whether it was on."""
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags & ~os.O_DIRECT)
    return bool(flags & os.O_DIRECT)
