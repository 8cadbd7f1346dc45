"""What a test needs, as markers by its file; fixtures of several test files.

A test without a marker needs neither torch nor a process of its own, and is held to that.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import fakebuilder
import pytest
from faketestbed import FakeTestbed, Script
from hypothesis import settings as hypothesis
from tinyengines import make_family

from wanrt.bench import testbed

if TYPE_CHECKING:
    from wanexport.build.recipe import Built
    from wanexport.build.request import BuildRequest

# A red test says that a change broke something; new examples are looked for on purpose.
hypothesis.register_profile("repeatable", derandomize=True)
hypothesis.load_profile("repeatable")

TESTS = Path(__file__).parent
RINGS = {
    "torch": (
        "wanexport/build", "wanexport/checkpoint", "wanexport/cli/test_inspect.py",
        "wanexport/cli/test_main.py", "wanexport/extraction", "wanexport/graph", "wanexport/lora",
        "wanexport/model/test_formulas.py", "wanexport/model/test_names.py",
        "wanexport/pipelines",
        "wanexport/storage/test_streams.py", "wanexport/tensorrt", "wanexport/test_comparison.py",
        "wanexport/test_detach.py",
        "wanexport/verify",
        "wanexport/weights", "wanrt/backends/onnxruntime", "wanrt/backends/tensorrt/test_io.py",
        "wanrt/bench/test_probe.py", "wanrt/bench/test_stale.py",
    ),
    "system": (
        "system", "wanexport/test_rivals.py", "wanrt/backends/tensorrt/test_api.py",
        "wanrt/bench/test_method.py", "wanrt/machine/test_visible.py",
    ),
    "cpp": ("cpp",),
    "gpu": ("gpu",),
}  # fmt: skip
"""Marker -> folders and files whose tests bear it; single tests of others say it themselves."""
BY_FIXTURE = {"browser": "system"}
ASKED = ("uname", "nvidia-smi")
"""What describing a machine may start: Python's platform, and wanrt."""


class NoTorch:
    """Refuses to import torch, unless another test has."""

    def find_spec(self, name: str, *_: object) -> None:
        """Raise what a missing module raises."""
        if name == "torch":
            raise ModuleNotFoundError("torch, so mark the test", name=name)


def find_ring(path: Path) -> str | None:
    """Return the marker that all tests of a file bear, if there is one."""
    for ring, places in RINGS.items():
        if any(path.is_relative_to(TESTS / place) for place in places):
            return ring
    return None


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Leave out files whose marker isn't wanted before they import what may not be there."""
    ring = find_ring(collection_path)
    return True if ring and f"not {ring}" in config.getoption("markexpr") else None


@pytest.hookimpl(tryfirst=True)  # before what -m names is selected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their files and fixtures."""
    for item in items:
        rings = {
            BY_FIXTURE[name] for name in getattr(item, "fixturenames", ()) if name in BY_FIXTURE
        }
        if ring := find_ring(item.path):
            rings.add(ring)
        for name in rings:
            item.add_marker(name)


@pytest.fixture(autouse=True)
def _alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hold a test without a marker to what that says."""
    if RINGS.keys() & {marker.name for marker in request.node.iter_markers()}:
        return

    class Refused(subprocess.Popen[Any]):
        def __init__(self, argv: Any, *args: Any, **kwargs: Any) -> None:
            assert argv[0] in ASKED, f"a process, so mark the test as system: {argv}"
            super().__init__(argv, *args, **kwargs)

    monkeypatch.setattr(subprocess, "Popen", Refused)
    monkeypatch.setattr(sys, "meta_path", [NoTorch(), *sys.meta_path])


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
    recipe = ModuleType("wanexport.build.recipe")  # the real one imports torch
    recipe.build_engines = build  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, recipe.__name__, recipe)
    return requests


@pytest.fixture
def family(tmp_path: Path) -> Path:
    """A folder of full, merged r4, separate r4 and swappable engines."""
    return make_family(tmp_path / "engines")


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let commands bench in a fake world; call it for another script than the empty one."""

    def use(**script: Any) -> None:
        monkeypatch.setattr(testbed, "make_testbed", lambda _: FakeTestbed(Script(**script)))

    use()
    return use


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
