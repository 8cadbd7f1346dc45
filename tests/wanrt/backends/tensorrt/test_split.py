"""Split engines on TensorRT: contexts on the device, a CUDA graph each; on a fake library and GPU.

What they compute is the one graph's: x W^T + bias, and the rows of t W^T of the context.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faketensorrt
import faketrt
import pytest
from fakecuda import FakeCuda
from faketrt import X, exact, same
from tinyengines import numpy_dtype
from trtengines import (
    TEXT_ROWS,
    WIDTH,
    K,
    Q,
    Trt,
    adapter,
    base,
    compute,
    draw,
    make_trt,
    merge,
    own_parameters,
    save_adapter,
)

from wanrt import load_engine
from wanrt.engine.engine import Engine
from wanrt.errors import EngineError

cuda = faketrt.cuda  # a fixture
pytestmark = pytest.mark.usefixtures("cuda")

T, OTHER = draw(101, TEXT_ROWS, WIDTH), draw(102, TEXT_ROWS, WIDTH)
SPLIT = Trt(split=True)
SWAPPABLE = Trt(mode="swappable", split=True)
MERGED = Trt(mode="merged", refit="targets", split=True)


def weights_on(engine: Engine) -> list[str]:
    """Return the kinds of plans that are in the GPU's memory."""
    return [graph.plan.file for graph in (engine._context, engine._forward) if graph]  # type: ignore[attr-defined]


@pytest.mark.parametrize("refit", ["baked", "none", "all"])
@pytest.mark.parametrize("mode", ["full", "merged", "separate", "swappable"])
def test_two_plans_compute_what_one_does(tmp_path: Path, mode: str, refit: str) -> None:
    trt = Trt(mode=mode, refit=refit, dtype="fp16", split=True)
    x, t = (value.astype(numpy_dtype("fp16")) for value in (X, T))
    with load_engine(make_trt(tmp_path / "e", trt)) as engine:
        y = engine.forward(x=x, t=t)["y"]
        same(y, compute(own_parameters(trt), x, t))
        context = engine.prepare(t=t)
        assert context.nbytes == 2 * TEXT_ROWS * WIDTH
        exact(engine.forward(context=context, x=x)["y"], y)


def test_a_dynamic_engine_has_one_context_for_all_sizes(tmp_path: Path) -> None:
    trt = Trt(split=True, workloads={"small": 6, "large": 10})
    with load_engine(make_trt(tmp_path / "e", trt)) as engine:
        context = engine.prepare(t=T)
        for x in (X, draw(8, 10, WIDTH), X):
            same(engine.forward(context=context, x=x)["y"], compute(base(trt), x, T))


def test_two_contexts_alternate_on_a_graph_each(tmp_path: Path, cuda: FakeCuda) -> None:
    with load_engine(make_trt(tmp_path / "e", SPLIT)) as engine:
        contexts = [(engine.prepare(t=t), compute(base(SPLIT), X, t)) for t in (T, OTHER)]
        for captures in (0, 2, 2, 2):
            for context, want in contexts:
                same(engine.forward(context=context, x=X)["y"], want)
            assert cuda.captures == captures
        engine.bind(context=contexts[0][0], x=2 * X)  # in place
        assert engine.time_forward() == pytest.approx(faketensorrt.LAUNCH_S)
        assert cuda.captures == 2
        assert engine.context_s == contexts[0][0].seconds


def test_a_context_s_memory_and_graph_go_when_nobody_has_it(tmp_path: Path, cuda: FakeCuda) -> None:
    with load_engine(make_trt(tmp_path / "e", SPLIT)) as engine:
        kept = engine.prepare(t=T)
        engine.forward(context=kept, x=X)
        taken = cuda.taken
        for _ in range(3):
            engine.bind(context=engine.prepare(t=OTHER), x=X)
            engine.time_forward()
            assert len(cuda.graphs) == 1
            assert cuda.taken == taken + kept.nbytes
        same(engine.forward(context=kept, x=X)["y"], compute(base(SPLIT), X, T))
        engine.prepare(t=OTHER)
        engine.forward(context=kept, x=X)
        assert cuda.taken == taken
    with pytest.raises(EngineError, match="the engine is closed"):
        engine.forward(context=kept, x=X)


def test_a_context_s_weights_leave_the_gpu_unless_kept(tmp_path: Path) -> None:
    folder = make_trt(tmp_path / "e", SPLIT)
    for keep, loads in ((None, 2), (False, 2), (True, 1)):
        faketensorrt.world.deserialized.clear()
        with load_engine(folder, keep_context=keep) as engine:
            assert weights_on(engine) == ["denoise.plan"]
            contexts = [engine.prepare(t=T), engine.prepare(t=OTHER)]
            assert weights_on(engine) == ["context.plan"] * bool(keep) + ["denoise.plan"]
            assert faketensorrt.world.deserialized.count("context") == loads
            for context, t in zip(contexts, (T, OTHER), strict=True):
                same(engine.forward(context=context, x=X)["y"], compute(base(SPLIT), X, t))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("trt", [SWAPPABLE, MERGED], ids=["swappable", "merged"])
def test_adapters_of_both_graphs(tmp_path: Path, trt: Trt, keep: bool) -> None:
    """Those of the context's layers make contexts stale, those of others don't."""
    folder = make_trt(tmp_path / "e", trt)
    tensors = {name: adapter(seed, *of) for name, seed, of in
               (("q", 3, (Q,)), ("k", 4, (K,)), ("both", 5, (Q, K)))}  # fmt: skip
    files = {n: save_adapter(tmp_path / f"{n}.safetensors", t) for n, t in tensors.items()}
    with load_engine(folder, keep_context=keep) as engine:
        context = engine.prepare(t=T)
        for name in ("q", "k", "both"):
            engine.swap(files[name])
            if name != "q" or trt.mode == "merged":  # whose own adapter leaves all layers
                with pytest.raises(EngineError, match="context is stale"):
                    engine.forward(context=context, x=X)
                context = engine.prepare(t=T)
            want = compute(merge(base(trt), tensors[name]), X, T)
            same(engine.forward(context=context, x=X)["y"], want)
        engine.set_strengths([0.5])
        with pytest.raises(EngineError, match="context is stale"):
            engine.forward(context=context, x=X)
        halved = {n: v * (0.5 if n.endswith("B") else 1) for n, v in tensors["both"].items()}
        want = compute(merge(base(trt), halved), X, T)
        same(engine.forward(x=X, t=T)["y"], want)
        engine.swap(None)
        same(engine.forward(x=X, t=T)["y"], compute(own_parameters(trt), X, T))


@pytest.mark.parametrize("failing", [1, 2])
def test_a_swap_that_fails_in_either_graph_leaves_both_as_they_were(
    tmp_path: Path, failing: int
) -> None:
    world = faketensorrt.world
    file = save_adapter(tmp_path / "a.safetensors", adapter(5, Q, K))
    with load_engine(make_trt(tmp_path / "e", MERGED), keep_context=True) as engine:
        want = compute(own_parameters(MERGED), X, T)
        context = engine.prepare(t=T)
        world.refits_that_fail.add(world.refits + failing)
        with pytest.raises(EngineError, match="refit failed"):
            engine.swap(file)
        same(engine.forward(context=context, x=X)["y"], want)
        same(engine.forward(x=X, t=T)["y"], want)
        engine.swap(file)
        changed = compute(merge(base(MERGED), adapter(5, Q, K)), X, T)
        same(engine.forward(x=X, t=T)["y"], changed)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"x": X}, "input t is missing"),
    "unknown": ({"x": X, "t": T, "z": T}, "there is no input z"),
    "context of another kind": ({"x": X, "context": T}, "context is a ndarray"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_wrong_use_is_refused_and_nothing_stays_bound(tmp_path: Path, case: str) -> None:
    inputs, message = REFUSED[case]
    with load_engine(make_trt(tmp_path / "e", SPLIT)) as engine:
        with pytest.raises(EngineError, match=message):
            engine.forward(**inputs)
        with pytest.raises(EngineError, match=r"\[4, 16\], the engine takes \[3, 16\]"):
            engine.prepare(t=draw(1, 4, WIDTH))
        with pytest.raises(EngineError, match="no inputs are bound"):
            engine.time_forward()


def test_contexts_of_other_engines_and_of_one_graph_are_refused(tmp_path: Path) -> None:
    first, second, one = (
        load_engine(make_trt(tmp_path / name, trt))
        for name, trt in (("a", SPLIT), ("b", SPLIT), ("c", Trt()))
    )
    context = second.prepare(t=T)
    with pytest.raises(EngineError, match="prepared by another engine"):
        first.forward(context=context, x=X)
    with pytest.raises(EngineError, match="has one graph, so there is no context to prepare"):
        one.prepare(t=T)
    for engine in (first, second, one):
        engine.close()


@pytest.mark.parametrize("size", [1, 100, 3000])
def test_preparing_without_memory_gives_back_what_it_took(
    tmp_path: Path, cuda: FakeCuda, size: int
) -> None:
    with load_engine(make_trt(tmp_path / "e", SPLIT)) as engine:
        before, cuda.fail_mallocs_from = cuda.taken, size
        with pytest.raises(EngineError, match="out of memory"):
            engine.prepare(t=T)
        assert cuda.taken <= before + 6000  # the activations' block stays
        cuda.fail_mallocs_from = 1 << 60
        same(engine.forward(x=X, t=T)["y"], compute(base(SPLIT), X, T))


def test_streamed_weights_run_in_both_plans_without_graphs(tmp_path: Path, cuda: FakeCuda) -> None:
    trt = Trt(split=True, plan={"weight_streaming": True})
    with load_engine(make_trt(tmp_path / "e", trt), weight_streaming=1000) as engine:
        for _ in range(3):
            same(engine.forward(x=X, t=T)["y"], compute(base(trt), X, T))
        assert cuda.captures == 0
