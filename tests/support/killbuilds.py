"""Builds that die at a chosen file operation, forked from a process that has imported everything.

Reads lines of JSON on stdin, each a list of jobs that run at once, and answers with a list of
outcomes. A job is the keywords of `studies.build` with `out`, and one of

    "kill": N        SIGKILL before the N-th operation on a file of `out`
    "interrupt": N   KeyboardInterrupt there
    "fail": N        OSError(ENOSPC) at the N-th operation that needs room on the disk
    "largest": N     no file may grow beyond N bytes
"""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from studies import I2V, build

import wanexport.build.recipe  # noqa: F401 (once, for all builds that are forked)

ARCH = I2V.model_copy(update={"num_layers": 1})
EVENTS = frozenset(
    ("open", "os.link", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod",
     "tempfile.mkdtemp", "os.listdir", "os.scandir")
)  # fmt: skip
ROOM = frozenset(("os.link", "os.rename", "os.mkdir"))
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Trap:
    """An audit hook that counts operations under a folder and stops at one of them."""

    def __init__(self, out: str, job: dict[str, Any]) -> None:
        self.out, self.job = out, job
        self.count = self.room = 0

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        if event not in EVENTS or not any(self._inside(value) for value in arguments[:2]):
            return
        self.count += 1
        writes = event in ROOM or (event == "open" and bool(int(str(arguments[2])) & WRITING))
        self.room += writes
        if self.count == self.job.get("kill"):
            os.kill(os.getpid(), signal.SIGKILL)
        if self.count == self.job.get("interrupt"):
            raise KeyboardInterrupt
        if writes and self.room == self.job.get("fail"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(arguments[0]))

    def _inside(self, value: object) -> bool:
        return isinstance(value, str | Path) and str(value).startswith(self.out)


def run(job: dict[str, Any]) -> dict[str, object]:
    """Build in this process and say what came of it."""
    options = dict(job["options"])
    for key in ("modes", "ranks"):
        if key in options:
            options[key] = tuple(options[key])
    trap = Trap(job["out"], job)
    sys.addaudithook(trap)
    if "largest" in job:
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["largest"], job["largest"]))
    try:
        built = build(Path(job["out"]), ARCH, verify=False, **options)
    except BaseException as error:  # noqa: BLE001 (the answer says which)
        return {"error": type(error).__name__, "message": str(error), "count": trap.count}
    actions = [b.target.action for b in built]
    return {"actions": actions, "count": trap.count, "room": trap.room}


def fork(job: dict[str, Any]) -> tuple[int, int]:
    """Run a job in a child; return its process and the end of a pipe that will hold its answer."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, json.dumps(run(job)).encode())
        os._exit(0)
    os.close(writer)
    return child, reader


def collect(child: int, reader: int) -> dict[str, object]:
    with os.fdopen(reader, "rb") as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return {"signal": os.WTERMSIG(status)}
    found: dict[str, object] = json.loads(text)
    return found


def answer(message: object) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def main() -> None:
    torch.set_num_threads(1)  # a forked child has none of its parent's threads
    warm = json.loads(sys.stdin.readline())
    run(warm)  # trace once; the children inherit the graphs
    answer("ready")
    for line in sys.stdin:
        forked = [fork(job) for job in json.loads(line)]
        answer([collect(*one) for one in forked])


if __name__ == "__main__":
    main()
