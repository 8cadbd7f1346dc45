"""A job in a process of its own, so that it shares neither memory nor threads with another.

Linux only: the child inherits one end of a socket pair by its descriptor.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from multiprocessing import Pipe
from pathlib import Path
from typing import cast

from wanrt.bench.loading.jobs import LoadJob
from wanrt.bench.loading.wire import Answer, Call, receive_answer, send_request
from wanrt.engine.stack import AdapterArgument, list_adapters
from wanrt.errors import EngineError, WanrtError

__all__ = ["Hosted", "open_hosted"]

PATIENCE_S = 10.0  # for a process that was asked to end
TAIL = 4096  # bytes of what it printed
# OpenMP's threads may spin through the gaps within a forward, 0.1 ms or so, but not between them
QUIET = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "10000", "KMP_BLOCKTIME": "0"}


class Hosted:
    """A process for one job; `wanrt.engine.engine.Runner` is its contract once `load` has returned.

    One thread at a time may use it. The process ends with `close`, with its parent, or by itself
    when something kills it; every method then raises an `EngineError` that says so.
    """

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._timed = ""
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115 (closed by `close`)
        self._connection, far = Pipe()
        with far:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "wanrt.bench.loading.child", str(far.fileno())],
                pass_fds=[far.fileno()],
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=self._printed,
                stderr=self._printed,
            )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def timed(self) -> str:
        """What `time_forward` measures, in one sentence."""
        return self._timed

    def load(self) -> float:
        """Load the job and return the seconds that took, the start and its imports apart.

        Raises:
            WanrtError: as the job's loader, or the process ended.
        """
        seconds, timed = cast(tuple[float, str], self._ask(self._job))
        self._timed = timed
        return seconds

    @property
    def enqueue_s(self) -> float | None:
        """The host's seconds of the last timed forward until all of it was enqueued."""
        return cast("float | None", self._ask(("enqueue_s", ())))

    @property
    def context_s(self) -> float | None:
        """What preparing the bound context took, in seconds; None of an engine of one graph."""
        return cast("float | None", self._ask(("context_s", ())))

    def swap(self, adapter: AdapterArgument) -> None:
        """Load canonical adapters; None goes back to the base."""
        self._ask(("swap", ([(str(path), s) for path, s in list_adapters(adapter)],)))

    def time_forward(self) -> float:
        """Run one forward on the bound inputs and return its seconds, measured over there."""
        return cast(float, self._ask(("time_forward", ())))

    def close(self) -> None:
        """End the process, whatever it is doing; a second call does nothing."""
        self._connection.close()
        self._wait()
        self._printed.close()

    def _ask(self, request: LoadJob | Call) -> Answer:
        if self._connection.closed:
            raise EngineError(f"{self._job.name}: its process has ended")
        try:
            send_request(self._connection, request)
            return receive_answer(self._connection)
        except WanrtError:
            raise
        except (EOFError, OSError):
            raise self._explain() from None
        except BaseException:  # Ctrl-C: the answer to come would be taken for the next one's
            self.close()
            raise

    def _explain(self) -> EngineError:
        """Close, and return why there was nothing to close any more."""
        self._connection.close()
        code = self._wait()
        self._printed.seek(max(0, self._printed.seek(0, os.SEEK_END) - TAIL))
        lines = self._printed.read().decode(errors="replace").split("\n")
        self.close()
        if code == -signal.SIGKILL:
            return EngineError(
                f"{self._job.name}: its process was killed, most likely because memory ran out",
                "free memory or bench fewer engines at once; dmesg may know more",
            )
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        last = next((f": {line.strip()}" for line in reversed(lines) if line.strip()), "")
        return EngineError(f"{self._job.name}: its process ended with {how}{last}")

    def _wait(self) -> int:
        try:
            return self._process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()


def open_hosted(job: LoadJob) -> Hosted:
    """Load a job in a process of its own; `close` ends that.

    Raises:
        WanrtError: as `wanrt.bench.loading.jobs.load_job`, or the process ended.
    """
    hosted = Hosted(job)
    try:
        hosted.load()
    except BaseException:
        hosted.close()
        raise
    return hosted


def _environment() -> dict[str, str]:
    """Return this process's environment; the child imports what is imported here."""
    path = os.pathsep.join(entry or str(Path.cwd()) for entry in sys.path)
    return {**os.environ, **QUIET, "PYTHONPATH": path}
