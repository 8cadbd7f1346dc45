"""What a bench and its processes say to each other, and that none of it is pickled."""

from __future__ import annotations

import ast
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from tinyengines import Tiny, make_engine

from wanrt import errors
from wanrt.bench.loading.jobs import LoadJob
from wanrt.bench.loading.wire import (
    Answer,
    Call,
    receive_answer,
    receive_request,
    send_answer,
    send_request,
)
from wanrt.errors import EngineError, WanrtError
from wanrt.manifest.folder import open_folder

ROOT = Path(__file__).parents[4]
SOURCES = sorted([*(ROOT / "export").rglob("*.py"), *(ROOT / "runtime").rglob("*.py")])
PICKLERS = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
OBJECTS = {"send", "recv"}  # of a Connection, whose bytes are pickles


@pytest.fixture
def ends() -> tuple[Connection, Connection]:
    return Pipe()


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"device": "cuda", "threads": 3, "mapped": True, "weight_streaming": 0, "seed": 7},
        {"rival": "torch", "cuda_graph": False},
    ],
)
def test_a_job_arrives_as_it_was(
    tmp_path: Path, ends: tuple[Connection, Connection], options: dict[str, object]
) -> None:
    folder = open_folder(make_engine(tmp_path / "schön \udcff", Tiny()))
    job = LoadJob(folder, "64x32x1", **options)  # type: ignore[arg-type]
    send_request(ends[0], job)
    assert receive_request(ends[1]) == job


@pytest.mark.parametrize("call", [("time_forward", ()), ("swap", (None,)), ("swap", ("a b",))])
def test_calls_arrive_as_they_were(ends: tuple[Connection, Connection], call: Call) -> None:
    send_request(ends[0], call)
    assert receive_request(ends[1]) == call


@pytest.mark.parametrize("answer", [None, 0.1 + 0.2, "in a sentence", [1.5, "host clock"]])
def test_answers_arrive_to_the_last_bit(
    ends: tuple[Connection, Connection], answer: Answer
) -> None:
    send_answer(ends[0], answer)
    assert receive_answer(ends[1]) == answer


@pytest.mark.parametrize("name", [n for n in dir(errors) if n.endswith("Error")])
def test_errors_are_raised_as_what_they_are(ends: tuple[Connection, Connection], name: str) -> None:
    kind = getattr(errors, name)
    if not issubclass(kind, WanrtError):
        return
    send_answer(ends[0], kind("what\nis wrong", "what to do"))
    with pytest.raises(kind, match="what\nis wrong") as caught:
        receive_answer(ends[1])
    assert (type(caught.value), caught.value.hint) == (kind, "what to do")


@pytest.mark.parametrize("name", ["KeyboardInterrupt", "WanrtError", "annotations", "nothing"])
def test_an_error_of_no_kind_that_we_have_is_an_engines(
    ends: tuple[Connection, Connection], name: str
) -> None:
    ends[0].send_bytes(b'{"error": "%s", "message": "m", "hint": ""}' % name.encode())
    with pytest.raises(WanrtError, match="m") as caught:
        receive_answer(ends[1])
    assert type(caught.value) in (EngineError, WanrtError)


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_nothing_is_pickled(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    imported = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            imported |= {node.module.split(".")[0]}
        elif isinstance(node, ast.Attribute) and "multiprocessing" in imported:
            assert node.attr not in OBJECTS
    assert not imported & PICKLERS
