"""Several adapters at once, each at a strength of its own, on a tiny engine and by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tinyengines import (
    LORA_A,
    LORA_B,
    TOKENS,
    WIDTH,
    Tiny,
    adapter_tensors,
    expect,
    make_engine,
    write_adapter,
)

from wanrt.backends.load import load_engine
from wanrt.engine.engine import Engine
from wanrt.errors import AdapterError, EngineError

SWAPPABLE = Tiny(mode="swappable", max_rank=6, name="s")
X = np.random.default_rng(1).standard_normal((TOKENS, WIDTH)).astype(np.float32)
T = np.array([500.0], np.float32)
RANKS = (2, 4)


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with load_engine(make_engine(tmp_path / "e", SWAPPABLE)) as engine:
        yield engine


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [write_adapter(tmp_path / f"{r}.safetensors", adapter_tensors(r)) for r in RANKS]


def run(engine: Engine) -> np.ndarray[Any, Any]:
    y: np.ndarray[Any, Any] = engine.forward(x=X, timestep=T)["y"]
    return y


def by_hand(strengths: Sequence[float], ranks: Sequence[int] = RANKS) -> np.ndarray[Any, Any]:
    """Return the base's output and the adapters', each times its strength."""
    y: np.ndarray[Any, Any] = expect(SWAPPABLE, X, {}).astype(np.float64)
    for rank, strength in zip(ranks, strengths, strict=True):
        lora = adapter_tensors(rank)
        y += strength * (X @ lora[LORA_A].T) @ lora[LORA_B].T
    return y


@pytest.mark.parametrize("strengths", [(1, 1), (0.9, -0.3), (0, 1), (-2.5, 0), (30, 1e-3)])
def test_each_adapter_counts_by_its_strength(
    engine: Engine, files: list[Path], strengths: tuple[float, float]
) -> None:
    engine.swap(list(zip(files, strengths, strict=True)))  # their ranks fill the engine's six
    np.testing.assert_allclose(run(engine), by_hand(strengths), rtol=1e-4, atol=1e-3)


def test_a_schedule_changes_strengths_between_forwards(engine: Engine, files: list[Path]) -> None:
    base = run(engine)
    engine.swap([(file, 1) for file in files])
    for first in (1.0, 0.5, 0.0, -0.25):
        engine.set_strengths((first, 1 - first))
        np.testing.assert_allclose(run(engine), by_hand((first, 1 - first)), rtol=1e-4, atol=1e-4)
    engine.set_strengths((0, 0))
    np.testing.assert_array_equal(run(engine), base)
    engine.swap(files[0])  # at strength 1, whatever was before
    np.testing.assert_allclose(run(engine), by_hand((1,), (2,)), rtol=1e-4, atol=1e-4)
    engine.swap(None)
    np.testing.assert_array_equal(run(engine), base)
    engine.set_strengths(())


def test_an_adapter_of_fewer_modules_leaves_nothing_of_the_one_before(
    engine: Engine, files: list[Path], tmp_path: Path
) -> None:
    empty = write_adapter(tmp_path / "empty.safetensors", {})
    engine.swap([(files[1], 1), (files[0], 1)])
    engine.swap([(empty, 1), (files[0], 0.5), (empty, -1)])
    np.testing.assert_allclose(run(engine), by_hand((0.5,), (2,)), rtol=1e-4, atol=1e-4)


def test_one_file_may_be_there_twice(engine: Engine, files: list[Path]) -> None:
    engine.swap([(files[0], 0.75), (files[0], 0.5)])
    np.testing.assert_allclose(run(engine), by_hand((1.25,), (2,)), rtol=1e-4, atol=1e-4)


def test_ranks_that_exceed_the_engine_s_by_one_are_refused(
    engine: Engine, files: list[Path], tmp_path: Path
) -> None:
    one = write_adapter(tmp_path / "1.safetensors", adapter_tensors(1))
    engine.swap([(file, 1) for file in files])
    before = run(engine)
    with pytest.raises(AdapterError, match=r"^ranks 2 \+ 4 \+ 1 = 7, .* up to 6$") as caught:
        engine.swap([(file, 1) for file in (*files, one)])
    assert caught.value.hint == "build it with --max-rank 7, or load fewer adapters"
    np.testing.assert_array_equal(run(engine), before)


@pytest.mark.parametrize(
    ("strengths", "message"),
    [
        ((1,), r"^1 strength for 2 adapters$"),
        ((1, 2, 3), r"^3 strengths for 2 adapters$"),
        ((1, float("nan")), r"4\.safetensors: strength nan isn't finite$"),
        ((float("-inf"), 1), r"2\.safetensors: strength -inf isn't finite$"),
        ((1, 1e30), r"4\.safetensors: strength 1e\+30 makes its values overflow$"),
    ],
)
def test_refused_strengths_change_nothing(
    engine: Engine, files: list[Path], strengths: tuple[float, ...], message: str
) -> None:
    engine.swap([(file, 0.5) for file in files])
    before = run(engine)
    with pytest.raises(AdapterError, match=message):
        engine.set_strengths(strengths)
    np.testing.assert_array_equal(run(engine), before)
    if len(strengths) == len(files):
        with pytest.raises(AdapterError, match=message):
            engine.swap(list(zip(files, strengths, strict=True)))
        np.testing.assert_array_equal(run(engine), before)


@pytest.mark.parametrize("adapter", [3, [3], ["one.safetensors"], [("a", "b")], [("a", 1, 2)]])
def test_what_is_no_list_of_files_is_refused(engine: Engine, adapter: Any) -> None:
    with pytest.raises(EngineError, match=r"a path, or a list of \(path, strength\)"):
        engine.swap(adapter)


def test_an_engine_without_an_adapter_takes_no_strengths(tmp_path: Path) -> None:
    with (
        load_engine(make_engine(tmp_path / "full", Tiny())) as engine,
        pytest.raises(EngineError, match="its adapter is fixed"),
    ):
        engine.set_strengths(())


def test_strength_0_is_the_base_even_where_the_adapter_overflows(tmp_path: Path) -> None:
    """x A^T overflows fp16 here, so that 0 times it would be NaN."""
    tiny = Tiny(mode="swappable", max_rank=2, dtype="fp16", name="half")
    lora = adapter_tensors(2, dtype="fp16")
    huge = {LORA_A: np.full_like(lora[LORA_A], 65000), LORA_B: lora[LORA_B]}
    file = write_adapter(tmp_path / "huge.safetensors", huge)
    x = np.abs(X).astype(np.float16)
    with load_engine(make_engine(tmp_path / "e", tiny)) as engine:
        base = engine.forward(x=x, timestep=T)["y"]
        engine.swap(file)
        assert not np.isfinite(engine.forward(x=x, timestep=T)["y"]).all()
        engine.set_strengths([0])
        np.testing.assert_array_equal(engine.forward(x=x, timestep=T)["y"], base)
        with pytest.raises(AdapterError, match=r"strength 1\.01 makes its values overflow"):
            engine.set_strengths([1.01])
