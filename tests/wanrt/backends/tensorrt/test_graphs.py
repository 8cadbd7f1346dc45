"""TensorRT engines: timing, CUDA graphs, streams, streamed weights; on a fake library and GPU."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faketensorrt
import faketrt
import pytest
from fakecuda import FakeCuda
from faketrt import DYNAMIC, OnDevice, X, same
from trtengines import WIDTH, Trt, base, compute, draw, make_trt

from wanrt import load_engine
from wanrt.errors import EngineError

cuda = faketrt.cuda  # a fixture
pytestmark = pytest.mark.usefixtures("cuda")


def test_a_forward_is_timed_by_events_around_a_graph(tmp_path: Path, cuda: FakeCuda) -> None:
    with load_engine(make_trt(tmp_path / "e")) as engine:
        with pytest.raises(EngineError, match="no inputs are bound"):
            engine.time_forward()
        engine.bind(x=X)
        assert engine.time_forward() == pytest.approx(faketensorrt.LAUNCH_S)
        assert engine.time_forward() == pytest.approx(faketensorrt.LAUNCH_S)
        assert engine.timed.startswith("CUDA events around the launch of a CUDA graph")
        assert (cuda.captures, cuda.launches) == (1, 2)
        same(engine.forward(x=X)["y"], compute(base(Trt()), X))
        assert (cuda.captures, cuda.launches) == (1, 3)


def test_the_first_forward_is_enqueued_and_the_second_a_graph(
    tmp_path: Path, cuda: FakeCuda
) -> None:
    with load_engine(make_trt(tmp_path / "e")) as engine:
        for captures in (0, 1, 1):
            engine.forward(x=X)
            assert cuda.captures == captures


def test_other_shapes_and_addresses_are_captured_anew(tmp_path: Path, cuda: FakeCuda) -> None:
    first, second = OnDevice(cuda, X), OnDevice(cuda, 2 * X)
    with load_engine(make_trt(tmp_path / "e", DYNAMIC)) as engine:
        for captures, x in enumerate((first, second, draw(8, 10, WIDTH), first), 1):
            engine.bind(x=x)
            engine.time_forward()
            assert cuda.captures == captures
            assert len(cuda.graphs) == 1
        same(engine.forward(x=first)["y"], compute(base(DYNAMIC), X))
    first.free()
    second.free()


def test_without_graphs(tmp_path: Path, cuda: FakeCuda) -> None:
    with load_engine(make_trt(tmp_path / "e"), cuda_graph=False) as engine:
        engine.bind(x=X)
        assert engine.time_forward() == pytest.approx(faketensorrt.FORWARD_S)
        assert engine.timed == "CUDA events around enqueueing, inputs and outputs on the device"
        assert cuda.captures == 0


def test_a_capture_that_fails_says_so_and_leaves_none_behind(tmp_path: Path) -> None:
    faketensorrt.world.capturable = False
    with load_engine(make_trt(tmp_path / "e")) as engine:
        engine.bind(x=X)
        with pytest.raises(EngineError, match="when stream is capturing") as caught:
            engine.time_forward()
        assert "--no-cuda-graph" in caught.value.hint
    with load_engine(tmp_path / "e", cuda_graph=False) as engine:
        same(engine.forward(x=X)["y"], compute(base(Trt()), X))


def test_plans_that_say_they_can_t_be_captured_are_enqueued(
    tmp_path: Path, cuda: FakeCuda, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = faketensorrt.IExecutionContext  # TensorRT-RTX's has one method more
    monkeypatch.setattr(context, "is_stream_capturable", lambda *_: False, raising=False)
    with load_engine(make_trt(tmp_path / "e")) as engine:
        engine.bind(x=X)
        assert engine.time_forward() == pytest.approx(faketensorrt.FORWARD_S)
        assert "enqueueing" in engine.timed
        assert cuda.captures == 0


def test_rtx_compiles_its_kernels_before_it_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = SimpleNamespace(strategies=[])
    chosen.set_execution_context_allocation_strategy = chosen.strategies.append
    create = faketensorrt.ICudaEngine.create_execution_context

    def create_by_config(engine: Any, config: Any) -> Any:
        assert config is chosen
        return create(engine, *config.strategies)

    kinds = SimpleNamespace(EAGER="eager", LAZY="lazy")
    name = "DynamicShapesKernelSpecializationStrategy"
    monkeypatch.setattr(faketensorrt, name, kinds, raising=False)
    engine_class = faketensorrt.ICudaEngine
    monkeypatch.setattr(engine_class, "create_runtime_config", lambda _: chosen, raising=False)
    monkeypatch.setattr(engine_class, "create_execution_context", create_by_config)
    with load_engine(make_trt(tmp_path / "e")) as engine:
        same(engine.forward(x=X)["y"], compute(base(Trt()), X))
    assert chosen.dynamic_shapes_kernel_specialization_strategy == "eager"


def test_the_caller_s_stream_is_used_and_kept(tmp_path: Path, cuda: FakeCuda) -> None:
    with load_engine(make_trt(tmp_path / "e"), stream=42) as engine:
        engine.forward(x=X)
        assert cuda.streams == set()
        assert set(cuda.synchronized) == {42}
    with pytest.raises(EngineError, match="default stream can't be captured"):
        load_engine(tmp_path / "e", stream=0)
    with load_engine(tmp_path / "e", stream=0, cuda_graph=False) as engine:
        engine.forward(x=X)


STREAMED = Trt(plan={"weight_streaming": True})


def test_streamed_weights_are_never_captured(tmp_path: Path, cuda: FakeCuda) -> None:
    with load_engine(make_trt(tmp_path / "e", STREAMED), weight_streaming=1000) as engine:
        for _ in range(2):
            same(engine.forward(x=X)["y"], compute(base(STREAMED), X))
        engine.time_forward()
        assert cuda.captures == 0
        assert engine.timed.endswith(
            "enqueueing, inputs and outputs on the device, weights streamed"
        )


def test_budgets_that_can_t_be_kept_are_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="wasn't built to stream weights") as caught:
        load_engine(make_trt(tmp_path / "a"), weight_streaming=1000)
    assert "--allow-weight-streaming" in caught.value.hint
    with pytest.raises(EngineError, match="within 10 bytes: the budget is too small"):
        load_engine(make_trt(tmp_path / "b", STREAMED), weight_streaming=10)
