"""An engine is one thread's at a time, whatever the thread does with it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import pytest
from tinyengines import Tiny, make_engine

from wanrt import load_engine
from wanrt.backends.onnxruntime.engine import OrtEngine
from wanrt.backends.tensorrt.engine import TrtEngine
from wanrt.engine.engine import Engine
from wanrt.errors import EngineError

X = np.ones((6, 16), np.float32)
T = np.array([500.0], np.float32)
SWAPPABLE = Tiny(mode="swappable", max_rank=4, adapters=(4,), name="tiny-swappable")
CALLS: dict[str, Callable[[Engine], object]] = {
    "forward": lambda engine: engine.forward(x=X, timestep=T),
    "bind": lambda engine: engine.bind(x=X, timestep=T),
    "time_forward": lambda engine: engine.time_forward(),
    "swap": lambda engine: engine.swap(None),
    "set_strengths": lambda engine: engine.set_strengths(()),
    "close": lambda engine: engine.close(),
}


class _Slow:
    """An input that is handed over only once the test says so."""

    def __init__(self) -> None:
        self.asked, self.given = Event(), Event()

    def __dlpack_device__(self) -> tuple[Any, int]:
        self.asked.set()
        self.given.wait(30)
        return X.__dlpack_device__()

    def __dlpack__(self, **options: Any) -> Any:
        return X.__dlpack__(**options)


@contextmanager
def used_elsewhere(engine: Engine) -> Iterator[list[dict[str, Any]]]:
    """Keep another thread inside `forward`; what that returns is in the list afterwards."""
    slow, outputs = _Slow(), []
    thread = Thread(target=lambda: outputs.append(engine.forward(x=slow, timestep=T)))
    thread.start()
    assert slow.asked.wait(30)
    try:
        yield outputs
    finally:
        slow.given.set()
        thread.join(30)


@pytest.mark.parametrize("call", CALLS)
def test_a_second_thread_is_refused_and_changes_nothing(tmp_path: Path, call: str) -> None:
    with load_engine(make_engine(tmp_path / "e", SWAPPABLE)) as engine:
        alone = engine.forward(x=X, timestep=T)["y"]
        with (
            used_elsewhere(engine) as outputs,
            pytest.raises(EngineError, match="e is in use by another thread") as caught,
        ):
            CALLS[call](engine)
        assert "one engine per thread" in caught.value.hint
        np.testing.assert_array_equal(outputs[0]["y"], alone)
        np.testing.assert_array_equal(engine.forward(x=X, timestep=T)["y"], alone)


@pytest.mark.parametrize("kind", [OrtEngine, TrtEngine])
def test_every_call_of_every_backend_is_guarded(kind: type[Engine]) -> None:
    assert all(hasattr(getattr(kind, name), "__wrapped__") for name in CALLS)


def test_a_refused_forward_leaves_the_engine_usable(tmp_path: Path) -> None:
    with load_engine(make_engine(tmp_path / "e", Tiny())) as engine:
        with pytest.raises(EngineError):
            engine.forward(x=X)
        thread = Thread(target=lambda: engine.bind(x=X, timestep=T))
        thread.start()
        thread.join(30)
        assert engine.time_forward() > 0
