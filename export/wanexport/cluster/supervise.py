"""`python -m wanexport.cluster.supervise`: one process on one card, watched, and ended as a whole.

It stands apart from what asked for it, because Ray kills a worker's children with SIGKILL and their
children live on, with the GPU. So it detaches itself, and ends the process and all that this
started once its standard input closes: with a killed worker, a dead raylet, a driver that is gone.

The first line of its input is a `Job` as JSON. Its output is `Event`s, one a line.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Literal

import psutil

from wanrt.machine.nvml import gpu_processes

__all__ = ["Event", "Job", "read_event"]

TICK_S = 0.2
BEAT_S = 5.0
GRACE_S = 5.0  # for a process that was asked to end
HELD_S = 60.0  # for a card's last process to leave it
TAIL_LINES = 8


@dataclass(frozen=True)
class Job:
    """What to run, and what shows that it goes on; paths are absolute."""

    argv: tuple[str, ...]
    card: str
    log: str
    done: str
    partial: str | None
    limit_s: float
    gpu: bool
    held_s: float = HELD_S


@dataclass(frozen=True)
class Event:
    """What a supervisor says.

    `line`: a line of the process's stderr. `beat`: it is there; `text` says how often results were
    saved. At the end one of `done`, `failed` (by itself), `stuck` (no progress, was ended) and
    `held` (never started: others are on the card), with the reason.
    """

    kind: Literal["line", "beat", "done", "failed", "stuck", "held"]
    text: str = ""


def read_event(line: str) -> Event:
    """Read an event as a supervisor prints it."""
    return Event(**json.loads(line))


def main() -> None:
    """Run the job that standard input holds."""
    _detach()
    job = Job(**json.loads(sys.stdin.buffer.readline()))
    try:
        with _alone_on(job):
            end = _wait_until_free(job) or _run(job)
    except BlockingIOError:
        end = Event("held", f"another study has used {job.card} for {job.held_s:.0f} s")
    except OSError as error:
        end = Event("failed", f"{error.filename or job.argv[0]}: {error.strerror}")
    _tell(end)


def _detach() -> None:
    """Leave the parent's family: a grandchild with a session of its own is nobody's child."""
    if os.fork():
        os._exit(0)
    os.setsid()
    with suppress(AttributeError, OSError):  # what the process starts and leaves comes back to us
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER


@contextmanager
def _alone_on(job: Job) -> Iterator[None]:
    """Hold a lock of this machine on the card, so that no other study's unit shares it."""
    import fcntl

    path = Path(tempfile.gettempdir(), f"wanexport-{job.card}.lock")
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        until = time.monotonic() + job.held_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise
                _pause(BEAT_S / 10)
        yield
    finally:
        os.close(handle)


def _wait_until_free(job: Job) -> Event | None:
    """Wait until no process computes on the card; say which does after a while."""
    until = time.monotonic() + job.held_s
    while job.gpu and (pids := gpu_processes()):
        if time.monotonic() > until:
            return Event("held", f"process {', '.join(map(str, pids))} is on {job.card}")
        _pause(BEAT_S / 10)
    return None


def _pause(seconds: float) -> None:
    """Wait, unless nobody is interested any more."""
    if _asker_gone(seconds):
        os._exit(1)
    _tell(Event("beat"))


def _asker_gone(seconds: float = 0.0) -> bool:
    with selectors.DefaultSelector() as selector:
        selector.register(sys.stdin, selectors.EVENT_READ)
        return bool(selector.select(seconds)) and not os.read(sys.stdin.fileno(), 4096)


def _tell(event: Event) -> None:
    with suppress(OSError):  # whoever asked is gone: the next look at stdin says so
        os.write(1, json.dumps(asdict(event)).encode() + b"\n")


def _run(job: Job) -> Event:
    with Path(job.log).open("wb") as log:
        process = subprocess.Popen(
            job.argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_die_with_parent,  # safe: this process has one thread
        )
        try:
            stuck = _watch(job, process, log)
        finally:
            _end_all(process)
    if stuck is not None:
        return stuck
    return _judge(job, process.returncode)


def _die_with_parent() -> None:
    """In the child: be killed if the supervisor is."""
    with suppress(AttributeError, OSError):
        import ctypes

        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def _watch(job: Job, process: subprocess.Popen[bytes], log: IO[bytes]) -> Event | None:
    """Pass on what the process says until it ends by itself, or has stood still for too long."""
    assert process.stderr is not None
    os.set_blocking(process.stderr.fileno(), False)
    seen, saves, rest = _signs(job), 0, b""
    moved = beat = time.monotonic()
    while True:
        ended = process.poll() is not None
        said = _read(process.stderr)
        log.write(said)
        log.flush()
        *lines, rest = (rest + said).split(b"\n")
        for line in lines:
            _tell(Event("line", line.decode(errors="replace").rstrip()))
        if ended:
            return None
        now, signs = time.monotonic(), _signs(job)
        if signs != seen:
            saves += signs[1:] != seen[1:]
            moved, seen = now, signs
        if now - moved > job.limit_s:
            return Event("stuck", f"no progress for {job.limit_s:.0f} s, so it was ended")
        if now - beat > BEAT_S:
            _tell(Event("beat", f"saved {saves} times" if saves else ""))
            beat = now
        if _asker_gone(TICK_S):
            _end_all(process)
            os._exit(1)


def _read(stream: IO[bytes]) -> bytes:
    try:
        return os.read(stream.fileno(), 1 << 16)
    except BlockingIOError:
        return b""


def _signs(job: Job) -> tuple[int, int, int]:
    """Return what changes as long as the process gets on: its log, and the file that it writes."""
    log = Path(job.log).stat().st_size
    try:
        saved = Path(job.partial or job.done).stat()
    except OSError:
        return log, 0, 0
    return log, saved.st_mtime_ns, saved.st_size


def _end_all(process: subprocess.Popen[bytes]) -> None:
    """End the process's group, and what left the group: politely, then not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        family = psutil.Process().children(recursive=True)
        for member in family:
            with suppress(psutil.NoSuchProcess):
                member.send_signal(number)
        process.poll()
        _, alive = psutil.wait_procs(family, GRACE_S)
        if not alive:
            break
    process.wait()


def _judge(job: Job, code: int) -> Event:
    if code:
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return Event("failed", _last_words(Path(job.log)) or f"it ended with {how}")
    if job.partial is not None and Path(job.partial).exists():
        Path(job.partial).replace(job.done)
    if not Path(job.done).exists():
        return Event("failed", f"it ended well, but {job.done} isn't there")
    return Event("done")


def _last_words(log: Path) -> str:
    """Return the error that a command of ours ended with, or else the last line it printed."""
    lines = log.read_bytes()[-8192:].decode(errors="replace").splitlines()
    lines = [line.strip() for line in lines if line.strip()][-TAIL_LINES:]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]


if __name__ == "__main__":
    main()
