"""Fixtures of several test files: tiny engines, scripts of fake benches, a fake builder."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fakebuilder
import pytest
from tinyengines import make_family

if TYPE_CHECKING:
    from wanexport.build.recipe import Built
    from wanexport.build.request import BuildRequest


@pytest.fixture(autouse=True)
def _no_hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be told to have taken long: on a busy machine anything may."""
    monkeypatch.setattr("wanrt.terminal.progress.LONG_S", float("inf"))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[BuildRequest]:
    """Collect what is asked for instead of building it."""
    requests: list[BuildRequest] = []

    def build(request: BuildRequest, _: object) -> list[Built]:
        requests.append(request)
        return []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("wanexport.build.recipe.build_engines", build)
    return requests


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A folder of full, merged r4, separate r4 and swappable engines."""
    return make_family(tmp_path / "engines")


@pytest.fixture
def fake(tmp_path: Path) -> Callable[..., Path]:
    """Write the script of a fake bench and return its path."""

    def write(**script: Any) -> Path:
        path = tmp_path / "script.json"
        path.write_text(json.dumps(script))
        return path

    return write


@pytest.fixture
def fake_builder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Put the fake builder in TensorRT's place; call it with what it is to be like."""
    from wanexport.tensorrt import builder

    monkeypatch.setattr(builder, "WORKER", (sys.executable, fakebuilder.__file__))

    def be(**settings: object) -> None:
        builder.find_toolchain.cache_clear()
        monkeypatch.setenv("FAKE_BUILDER", json.dumps(settings))

    be()
    yield be
    builder.find_toolchain.cache_clear()
