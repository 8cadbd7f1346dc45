"""What one engine or rival takes: seconds to load, memory, disk; found in processes of its own.

Device memory is read from NVML, which has not been run: no GPU here.
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import numpy as np

from wanrt.bench.loading.jobs import LoadJob
from wanrt.bench.loading.process import Hosted
from wanrt.machine.nvml import free_gpu_bytes
from wanrt.manifest.folder import EngineFolder
from wanrt.results.values import Probe

__all__ = ["probe_job"]

PERIOD_S = 0.01
SWAPS = 5


def probe_job(job: LoadJob, baseline: EngineFolder | None) -> Probe:
    """Load a job twice and run it; what this machine can't tell is None.

    The first load is from the disk, if the files could be dropped from the page cache; the first
    forward and the peaks of memory are its. The process that measures must not have the files
    mapped: what is mapped can't be dropped.

    Args:
        job: what to load.
        baseline: the engine that `shared_bytes` refers to.

    Raises:
        WanrtError: it can't be loaded or run.
    """
    files = {job.engine.path / f.file: f.bytes for f in job.engine.manifest.files}
    context = None if job.rival else job.engine.manifest.workloads[job.workload].context
    cold = _drop_cached(list(files))
    with closing(Hosted(job)) as hosted, _watch(hosted.pid, job.device) as peak:
        first_load_s = hosted.load()
        context_s = hosted.context_s if context else None
        first_forward_s = hosted.time_forward()
        hosted.time_forward()
        swap_s = None if job.rival else _time_swap(hosted, job.engine)
    with closing(Hosted(job)) as hosted:
        warm_load_s = hosted.load()
    return Probe(
        cold_load_s=first_load_s if cold else None,
        warm_load_s=warm_load_s,
        first_forward_s=first_forward_s,
        memory_bytes=peak.anonymous_bytes,
        device_bytes=peak.device_bytes,
        disk_bytes=sum(files.values()),
        shared_bytes=_count_shared(files, baseline) if baseline else None,
        swap_s=swap_s,
        context_s=context_s,
        context_bytes=sum(context.bytes.values()) if context else None,
    )


def _time_swap(hosted: Hosted, engine: EngineFolder) -> float | None:
    """Return the seconds of exchanging an adapter by its file, the median of some; None if none is.

    With what asking the process takes, some 0.1 ms.
    """
    stacks = engine.manifest.stacks
    if engine.manifest.mode != "swappable" or not stacks:
        return None
    adapters = [(engine.path / one.file, one.strength) for one in stacks[0]]
    seconds = []
    for _ in range(SWAPS):
        start = time.perf_counter()
        hosted.swap(adapters)
        seconds.append(time.perf_counter() - start)
    return median(seconds)


@dataclass
class _Peak:
    """The most memory that a process was seen to have."""

    anonymous_bytes: int | None = None
    device_bytes: int | None = None

    def look(self, pid: int, free_before: int | None) -> None:
        """Look at the process's anonymous memory, and at what the device has lost since."""
        now = _anonymous_bytes(pid)
        if now is not None:
            self.anonymous_bytes = max(now, self.anonymous_bytes or 0)
        if free_before is not None:
            lost = free_before - (free_gpu_bytes() or free_before)
            self.device_bytes = max(lost, self.device_bytes or 0)


@contextmanager
def _watch(pid: int, device: str) -> Iterator[_Peak]:
    """Look at a process's memory every 10 ms."""
    peak = _Peak()
    free_before = free_gpu_bytes() if device == "cuda" else None
    done = threading.Event()

    def poll() -> None:
        while not done.wait(PERIOD_S):
            peak.look(pid, free_before)

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield peak
        peak.look(pid, free_before)
    finally:
        done.set()
        thread.join()


def _anonymous_bytes(pid: int) -> int | None:
    """Return a process's anonymous memory, mapped file pages apart."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:  # it has ended, or this isn't Linux
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines())
    return int(fields["RssAnon"].split()[0]) << 10 if "RssAnon" in fields else None


def _drop_cached(paths: Sequence[Path]) -> bool:
    """Drop files from the page cache, as any user may; tell whether nothing of them stayed there.

    What another process has mapped stays, and so does everything on a memory file system.
    """
    if not hasattr(os, "posix_fadvise"):
        return False
    try:
        for path in paths:
            with path.open("rb") as file:
                os.fsync(file.fileno())  # what isn't on the disk yet can't be dropped
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return not any(_is_cached(path) for path in paths)
    except OSError:  # not every file system can; loading says what can't be read
        return False


def _is_cached(path: Path) -> bool:
    """Tell whether any page of a file is in memory; of what isn't ours the kernel says yes."""
    size = path.stat().st_size
    if size == 0:
        return False
    pages = np.memmap(path, np.uint8, "r")
    resident = np.empty(math.ceil(size / mmap.PAGESIZE), np.uint8)
    libc = ctypes.CDLL(None)
    address = ctypes.c_void_p(pages.ctypes.data)
    failed = libc.mincore(address, ctypes.c_size_t(size), ctypes.c_void_p(resident.ctypes.data))
    return failed != 0 or bool(np.any(resident & 1))


def _count_shared(files: dict[Path, int], baseline: EngineFolder) -> int:
    """Return the bytes of the files that are the baseline's own, by inode."""
    held = {_inode(baseline.path / file.file) for file in baseline.manifest.files}
    return sum(size for path, size in files.items() if _inode(path) in held)


def _inode(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_dev, stat.st_ino
