"""Commands run in forked children of a process that has imported everything and traced once.

Importing torch and tracing take longer than all else of a tiny build, and aren't what can break.
The parent computes with one thread, since a forked child has none of its parent's others.
"""

from __future__ import annotations

import io
import os
import resource
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from contextlib import chdir, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MOST_BYTES", "MOST_SECONDS", "Outcome", "preload", "run_command"]

MOST_SECONDS = 30.0
"""Of processor time, since campaigns run beside other work; of the clock three times as much."""
MOST_BYTES = 2 << 30
FINE = (0, 1, 2, 130, -signal.SIGKILL, -signal.SIGTERM)
"""Exit statuses; SIGTERM ends a command as Ctrl-C does, unless it has hardly begun."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit status, negative for a signal, what it said and what it took.

    `left` are the processes of its session that still ran a second after its end.
    """

    code: int
    said: str
    seconds: float
    peak_bytes: int
    left: tuple[str, ...] = ()

    def problem(self) -> str:
        """Say what no command may do, whatever it is given; nothing if all is well."""
        if self.code not in FINE:
            return f"exit status {self.code}"
        if "Traceback (most recent call last)" in self.said:
            return "a traceback"
        if self.seconds > MOST_SECONDS:
            return f"{self.seconds:.0f} s of processor time"
        if self.peak_bytes > MOST_BYTES:
            return f"{self.peak_bytes >> 20} MiB"
        return f"still running: {', '.join(self.left)}" if self.left else ""


def preload(argv: Sequence[str], room: Path) -> None:
    """Import what commands need, and run one in this process, whose graphs the children inherit.

    Raises:
        RuntimeError: it fails.
    """
    import diffusers.models.transformers.transformer_wan  # noqa: F401
    import onnxruntime  # noqa: F401
    import peft  # noqa: F401
    import torch

    import wanrt.bench.run
    import wanrt.cli.main
    import wanrt.report.html.page  # noqa: F401

    torch.set_num_threads(1)
    with chdir(room), redirect_stdout(io.StringIO()):
        if code := _call(argv):
            raise RuntimeError(f"{' '.join(argv)}: exit status {code}")


def run_command(
    argv: Sequence[str],
    cwd: Path,
    end_after: float | None = None,
    by: signal.Signals = signal.SIGKILL,
) -> Outcome:
    """Run `wanexport ...` or `wanrt ...` in a child.

    Args:
        argv: the command's name and its arguments.
        cwd: where it runs.
        end_after: seconds until a signal; by default as long as a command may take at most.
        by: which signal.
    """
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            _become(argv, cwd, said.fileno())
        end = threading.Timer(end_after or 3 * MOST_SECONDS, _end, [child, by])
        end.start()
        _, status, usage = os.wait4(child, 0)
        end.cancel()
        left = _find_session(child)
        said.seek(0)
        text = said.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(status)
    seconds = usage.ru_utime + usage.ru_stime
    if code == -signal.SIGKILL and end_after is None:
        code = -signal.SIGALRM  # nobody meant to kill it: it took too long
    return Outcome(code, text, seconds, usage.ru_maxrss << 10, left)


def _end(child: int, by: signal.Signals = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.kill(child, by)


def _become(argv: Sequence[str], cwd: Path, said: int) -> None:
    """Be that command: never returns."""
    status = 70
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # as a new process has it
        os.setsid()
        os.chdir(cwd)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(said, 1)
        os.dup2(said, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        status = _call(argv)
    except BaseException:  # noqa: BLE001 (it is this that a campaign looks for)
        import traceback

        traceback.print_exc()
    finally:
        with suppress(BaseException):
            sys.stdout.flush()
        with suppress(BaseException):
            sys.stderr.flush()
        os._exit(status)


def _call(argv: Sequence[str]) -> int:
    import wanexport.cli.main
    import wanrt.cli.main

    sys.argv = list(argv)
    main = wanrt.cli.main.main if argv[0] == "wanrt" else wanexport.cli.main.main
    try:
        main(argv[1:])
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1


def _find_session(leader: int) -> tuple[str, ...]:
    """Name the processes that a command left, after giving them a second to notice."""
    end = time.monotonic() + 1.0
    while (left := _list_session(leader)) and time.monotonic() < end:
        time.sleep(0.02)
    for number, _ in left:
        _end(number)
    return tuple(name for _, name in left)


def _list_session(leader: int) -> list[tuple[int, str]]:
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError, IndexError, ValueError):
            text = (folder / "stat").read_text()
            name, _, rest = text.partition("(")[2].rpartition(")")
            state, fields = rest.split()[0], rest.split()
            if int(fields[3]) == leader and state != "Z":
                found.append((int(folder.name), name))
    return found
