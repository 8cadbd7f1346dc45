"""What a bench and the process of a job say to each other: JSON, one message per frame.

Nothing is pickled: a message can't name code to run, and one of another shape is an error.
`multiprocessing.connection` frames the bytes.
"""

from __future__ import annotations

import json
from dataclasses import fields
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from wanrt import errors
from wanrt.bench.loading.jobs import LoadJob
from wanrt.errors import EngineError, WanrtError
from wanrt.manifest.folder import EngineFolder
from wanrt.manifest.schema import Manifest

__all__ = ["Answer", "Call", "receive_answer", "receive_request", "send_answer", "send_request"]

Scalar = float | str | None
Call = tuple[str, tuple[Scalar | list[tuple[str, float]], ...]]
"""A member of the loaded `Runner`, and arguments for it; adapters as (file, strength) of each."""
Answer = Scalar | list[Scalar]

MAX_BYTES = 128 << 20  # engine.json has at most 64 MiB
PLAIN = [field.name for field in fields(LoadJob) if field.name != "engine"]


def send_request(connection: Connection, request: LoadJob | Call) -> None:
    """Ask for a job to be loaded, or for a member of what was loaded."""
    if isinstance(request, LoadJob):
        engine = {
            "path": str(request.engine.path),
            "manifest": request.engine.manifest.model_dump_json(),
        }
        _send(connection, {"engine": engine} | {name: getattr(request, name) for name in PLAIN})
    else:
        _send(connection, list(request))


def receive_request(connection: Connection) -> LoadJob | Call:
    """Return the next request.

    Raises:
        EOFError: the other end was closed.
    """
    message = _receive(connection)
    if isinstance(message, list):
        member, arguments = message
        return member, tuple(arguments)
    engine = message.pop("engine")
    manifest = Manifest.model_validate_json(engine["manifest"])
    return LoadJob(EngineFolder(Path(engine["path"]), manifest), **message)


def send_answer(connection: Connection, answer: Answer | WanrtError) -> None:
    """Answer a request, with an error as well."""
    if isinstance(answer, WanrtError):
        kind = type(answer).__name__
        _send(connection, {"error": kind, "message": str(answer), "hint": answer.hint})
    else:
        _send(connection, {"value": answer})


def receive_answer(connection: Connection) -> Answer:
    """Return the answer to a request.

    Raises:
        WanrtError: that was the answer.
        EOFError: the other end was closed.
    """
    message = _receive(connection)
    if "error" in message:
        kind = getattr(errors, message["error"], EngineError)
        if not (isinstance(kind, type) and issubclass(kind, WanrtError)):
            kind = EngineError
        raise kind(message["message"], message["hint"])
    answer: Answer = message["value"]
    return answer


def _send(connection: Connection, message: object) -> None:
    connection.send_bytes(json.dumps(message).encode())


def _receive(connection: Connection) -> Any:
    return json.loads(connection.recv_bytes(MAX_BYTES))
