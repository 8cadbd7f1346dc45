"""Swapping adapters in TensorRT engines: inputs and merged weights; on a fake library and GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faketensorrt
import faketrt
import numpy as np
import pytest
from fakecuda import FakeCuda
from faketrt import X, exact, same
from tinyengines import numpy_dtype, read_raw, write_manifest
from trtengines import (
    MAX_RANK,
    WIDTH,
    K,
    Q,
    Trt,
    adapter,
    base,
    compute,
    make_trt,
    merge,
    own_parameters,
    save_adapter,
)

from wanrt import load_engine
from wanrt.errors import AdapterError, EngineError

cuda = faketrt.cuda  # a fixture
pytestmark = pytest.mark.usefixtures("cuda")


def test_a_swappable_engine_swaps_within_one_graph(tmp_path: Path, cuda: FakeCuda) -> None:
    trt = Trt(mode="swappable")
    one, two = adapter(3, Q, K), adapter(4, K, rank=MAX_RANK)
    with load_engine(make_trt(tmp_path / "e", trt)) as engine:
        plain = engine.forward(x=X)["y"]
        same(plain, compute(base(trt), X))
        for tensors in (one, two, one):
            engine.swap(save_adapter(tmp_path / "a.safetensors", tensors))
            same(engine.forward(x=X)["y"], compute(base(trt) | _padded(tensors), X))
        engine.swap(None)
        exact(engine.forward(x=X)["y"], plain)
        engine.time_forward()
        assert cuda.captures == 1


def test_strengths_change_within_one_graph(tmp_path: Path, cuda: FakeCuda) -> None:
    trt = Trt(mode="swappable")
    files = [save_adapter(tmp_path / f"{seed}.safetensors", adapter(seed, Q, K)) for seed in (3, 4)]
    with load_engine(make_trt(tmp_path / "e", trt)) as engine:
        plain = engine.forward(x=X)["y"]
        engine.swap([(file, 1) for file in files])
        for strengths in ((1, 1), (0.5, -2), (0, 0.25)):
            cuda.copied.clear()
            engine.set_strengths(strengths)
            assert cuda.copied == [("in", 4 * MAX_RANK)]  # the strengths alone
            same(engine.forward(x=X)["y"], compute(base(trt) | _stacked(strengths), X))
        with pytest.raises(AdapterError, match="1 strength for 2 adapters"):
            engine.set_strengths((1,))
        engine.set_strengths((0, 0))
        exact(engine.forward(x=X)["y"], plain)
        assert cuda.captures == 1


def test_a_merged_engine_merges_again_for_other_strengths(tmp_path: Path) -> None:
    trt = Trt(mode="merged", refit="all")
    files = [save_adapter(tmp_path / f"{seed}.safetensors", adapter(seed, Q, K)) for seed in (3, 4)]
    with load_engine(make_trt(tmp_path / "e", trt)) as engine:
        engine.swap([(file, 1) for file in files])
        for strengths in ((1, 1), (0.5, -2), (0, 0.25)):
            engine.set_strengths(strengths)
            merged = merge(base(trt), _stacked(strengths))
            same(engine.forward(x=X)["y"], compute(merged, X))


def _stacked(strengths: tuple[float, float]) -> dict[str, Any]:
    """Return both files' matrices side by side, strengths in B."""
    found = {}
    for module in (Q, K):
        pairs = [adapter(seed, Q, K) for seed in (3, 4)]
        downs = [pair[f"{module}.lora_A"] for pair in pairs]
        ups = [
            np.float32(strength) * pair[f"{module}.lora_B"]
            for strength, pair in zip(strengths, pairs, strict=True)
        ]
        found[f"{module}.lora_A"] = np.concatenate(downs)
        found[f"{module}.lora_B"] = np.concatenate(ups, axis=1)
    return found


def test_a_refused_adapter_leaves_the_one_before(tmp_path: Path) -> None:
    wrong = adapter(4, Q, rank=MAX_RANK + 1)
    for mode, refit in (("swappable", "none"), ("merged", "all")):
        with load_engine(make_trt(tmp_path / mode, Trt(mode=mode, refit=refit))) as engine:
            engine.swap(save_adapter(tmp_path / "a.safetensors", adapter(3, Q)))
            before = engine.forward(x=X)["y"]
            with pytest.raises(AdapterError, match="rank 5"):
                engine.swap(save_adapter(tmp_path / "b.safetensors", wrong))
            exact(engine.forward(x=X)["y"], before)


@pytest.mark.parametrize(("mode", "refit"), [("full", "all"), ("merged", "none")])
def test_engines_that_can_t_swap_say_what_can(tmp_path: Path, mode: str, refit: str) -> None:
    with load_engine(make_trt(tmp_path / "e", Trt(mode=mode, refit=refit))) as engine:
        with pytest.raises(
            EngineError, match=f"is a {mode} engine.*its adapter is fixed"
        ) as caught:
            engine.swap(None)
        assert "swappable" in caught.value.hint


def _padded(tensors: dict[str, Any]) -> dict[str, Any]:
    rest = {
        f"{module}.{half}": np.zeros(shape, np.float32)
        for module in (Q, K)
        for half, shape in (("lora_A", (1, WIDTH)), ("lora_B", (WIDTH, 1)))
    }
    return rest | tensors


NEITHER: tuple[tuple[str, ...], ...] = ()
FUSIONS = {
    "alone": NEITHER,
    "with the bias": ((f"{Q}.weight", "bias"),),
    "with each other": ((f"{Q}.weight", f"{K}.weight"),),
    "all": ((f"{Q}.weight", "bias"), ("bias", f"{K}.weight")),
}


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_merged_engine_swaps_in_place(tmp_path: Path, fusion: str, dtype: str) -> None:
    trt = Trt(mode="merged", refit="all", dtype=dtype, fused=FUSIONS[fusion])
    x = X.astype(numpy_dtype(dtype))
    adapters = [adapter(3, Q, K), adapter(4, K), adapter(5, Q, rank=MAX_RANK)]
    with load_engine(make_trt(tmp_path / "e", trt)) as engine:
        built_in = engine.forward(x=x)["y"]
        same(built_in, compute(own_parameters(trt), x))
        for tensors in (*adapters, *reversed(adapters)):
            engine.swap(save_adapter(tmp_path / "a.safetensors", tensors))
            # merged from the pristine base: rounded once, and nothing of the one before
            exact(engine.forward(x=x)["y"], compute(merge(base(trt), tensors), x))
        engine.swap(None)
        exact(engine.forward(x=x)["y"], built_in)


def test_only_what_changes_is_refitted(tmp_path: Path) -> None:
    with load_engine(make_trt(tmp_path / "e", Trt(mode="merged", refit="targets"))) as engine:
        calls = faketensorrt.world.refit_calls
        calls.clear()
        engine.swap(None)
        assert calls == []
        engine.swap(save_adapter(tmp_path / "q.safetensors", adapter(3, Q)))
        assert calls == [[f"{Q}.weight"]]
        calls.clear()
        engine.swap(save_adapter(tmp_path / "k.safetensors", adapter(3, K)))
        assert calls == [[f"{Q}.weight"], [f"{K}.weight"]]  # q goes back to the pristine base
        calls.clear()
        engine.swap(None)
        assert calls == [[f"{Q}.weight"], [f"{K}.weight"]]


def test_merging_takes_no_more_memory_the_second_time(tmp_path: Path, cuda: FakeCuda) -> None:
    path = save_adapter(tmp_path / "a.safetensors", adapter(3, Q, K))
    with load_engine(make_trt(tmp_path / "e", Trt(mode="merged", refit="all"))) as engine:
        engine.forward(x=X)
        before = cuda.taken
        for _ in range(3):
            engine.swap(path)
            engine.swap(None)
        assert cuda.taken == before
        assert faketensorrt.world.deserialized == ["forward", "merge"]


def test_merge_plans_that_don_t_fit_are_refused(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "a.safetensors", adapter(3, Q))
    for key, value, message in (
        ("shape", [WIDTH, 2 * WIDTH], "has no merge plan"),
        ("dtype", "bf16", "it gives fp32, .* is bf16|isn't"),
    ):
        folder = make_trt(tmp_path / key, Trt(mode="merged", refit="all"))
        manifest = read_raw(folder)
        swap = manifest["graphs"]["forward"]["plan"]["swap"]
        if key == "shape":
            swap["merges"][0]["shape"] = value
        else:
            swap["base"][f"{Q}.weight"]["dtype"] = value
        write_manifest(folder, manifest)
        with load_engine(folder) as engine:
            before = engine.forward(x=X)["y"]
            with pytest.raises(EngineError, match=message):
                engine.swap(path)
            exact(engine.forward(x=X)["y"], before)


@pytest.mark.parametrize("first", [2, 3], ids=["the first matrix", "the second"])
def test_a_swap_that_fails_halfway_is_undone(tmp_path: Path, first: int) -> None:
    path = save_adapter(tmp_path / "a.safetensors", adapter(3, Q, K))
    with load_engine(make_trt(tmp_path / "e", Trt(mode="merged", refit="all"))) as engine:
        before = engine.forward(x=X)["y"]
        faketensorrt.world.refits_that_fail.add(first)
        with pytest.raises(EngineError, match="refit failed"):
            engine.swap(path)
        exact(engine.forward(x=X)["y"], before)
        engine.swap(path)
        exact(engine.forward(x=X)["y"], compute(merge(base(Trt()), adapter(3, Q, K)), X))


def test_a_swap_that_can_t_be_undone_stops_the_engine_until_the_next(tmp_path: Path) -> None:
    path = save_adapter(tmp_path / "a.safetensors", adapter(3, Q, K))
    with load_engine(make_trt(tmp_path / "e", Trt(mode="merged", refit="all"))) as engine:
        before = engine.forward(x=X)["y"]
        faketensorrt.world.refits_that_fail |= {3, 4}
        with pytest.raises(EngineError, match="refit failed"):
            engine.swap(path)
        for run in (lambda: engine.forward(x=X), engine.time_forward):
            with pytest.raises(EngineError, match="a swap failed halfway"):
                run()
        engine.swap(None)
        exact(engine.forward(x=X)["y"], before)


def test_a_swap_without_memory_leaves_the_one_before(tmp_path: Path, cuda: FakeCuda) -> None:
    path = save_adapter(tmp_path / "a.safetensors", adapter(3, Q, K))
    with load_engine(make_trt(tmp_path / "e", Trt(mode="merged", refit="all"))) as engine:
        before = engine.forward(x=X)["y"]
        cuda.fail_mallocs_from = 1024
        with pytest.raises(EngineError, match="out of memory"):
            engine.swap(path)
        cuda.fail_mallocs_from = 1 << 60
        exact(engine.forward(x=X)["y"], before)
