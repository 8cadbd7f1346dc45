"""The child of `process`: `python -m wanrt.bench.loading.child FD` loads a job and obeys.

It gets a `LoadJob`, then pairs of a `Runner`'s member and arguments for it, and answers each with
what that returned or is, or with a `WanrtError` (`wire`). What libraries print goes elsewhere: FD
is the parent's alone.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection
from queue import SimpleQueue

from wanrt.bench.loading.jobs import LoadJob, find_loader
from wanrt.bench.loading.wire import Answer, Call, receive_request, send_answer
from wanrt.engine.engine import Runner
from wanrt.errors import EngineError, WanrtError
from wanrt.storage.interrupt import leave_to_parent

__all__ = ["main"]

LINE = 400  # characters of a library's error; compilers print pages

Request = LoadJob | Call


def main() -> None:
    """Serve the parent at the other end of the file descriptor until it closes that end."""
    leave_to_parent()
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    connection = Connection(descriptor)
    requests: SimpleQueue[Request] = SimpleQueue()
    threading.Thread(target=_listen, args=(connection, requests), daemon=True).start()
    _serve(connection, requests)


def _listen(connection: Connection, requests: SimpleQueue[Request]) -> None:
    """Pass requests on; once the parent has closed or died, end even within a forward."""
    try:
        while True:
            requests.put(receive_request(connection))
    except (EOFError, OSError):
        os._exit(0)
    except Exception:  # noqa: BLE001 (whatever it is, this process can't go on)
        traceback.print_exc()
        os._exit(1)


def _serve(connection: Connection, requests: SimpleQueue[Request]) -> None:
    runner: Runner | None = None
    name = ""
    while True:
        request = requests.get()
        answer: Answer | WanrtError
        try:
            if isinstance(request, LoadJob):
                name = request.name
                runner, answer = _load(request)
            else:
                member, arguments = request
                answer = getattr(runner, member)
                answer = answer(*arguments) if callable(answer) else answer
        except Exception as error:  # noqa: BLE001 (libraries raise what they like)
            traceback.print_exc()
            answer = _as_ours(name, error)
        send_answer(connection, answer)


def _load(job: LoadJob) -> tuple[Runner, Answer]:
    """Load a job; the answer is the seconds that took, imports apart, and what will be timed."""
    loader = find_loader(job)
    start = time.perf_counter()
    runner = loader(job)
    return runner, [time.perf_counter() - start, runner.timed]


def _as_ours(name: str, error: Exception) -> WanrtError:
    if isinstance(error, WanrtError):
        return error
    line = " ".join(str(error).split())[:LINE]
    if hasattr(error, "hint"):  # wanexport's errors are made like ours
        return EngineError(f"{name}: {line}", error.hint)
    return EngineError(f"{name}: {type(error).__name__}: {line}")


if __name__ == "__main__":
    main()
