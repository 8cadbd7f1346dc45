"""Engines on ONNX Runtime's CPU: what they compute, take, refuse and swap."""

from __future__ import annotations

import sys
import time
import weakref
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tinyengines import (
    LORA_A,
    LORA_B,
    MODULE,
    Tiny,
    adapter_tensors,
    expect,
    make_engine,
    read_raw,
    write_adapter,
    write_manifest,
)

from wanrt import WanrtError, load_engine
from wanrt.engine.inputs import make_inputs
from wanrt.errors import AdapterError, EngineError, UnsupportedError
from wanrt.manifest.read import read_manifest

X = np.random.default_rng(1).standard_normal((6, 16)).astype(np.float32)
T = np.array([500.0], np.float32)
SWAPPABLE = Tiny(mode="swappable", max_rank=4, adapters=(2, 4), name="tiny-swappable")
DYNAMIC = {"small": 6, "large": 10}


def _close(got: Any, want: Any) -> None:
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("mapped", [False, True], ids=["packed", "mapped"])
@pytest.mark.parametrize("mode", ["full", "merged", "separate"])
def test_forward_computes_what_the_mode_says(tmp_path: Path, mode: str, mapped: bool) -> None:
    tiny = Tiny(mode=mode, rank=None if mode == "full" else 4)
    with load_engine(make_engine(tmp_path / "e", tiny), mapped=mapped, threads=1) as engine:
        _close(engine.forward(x=X, timestep=T)["y"], expect(tiny, X))


def test_outputs_are_the_caller_s(tmp_path: Path) -> None:
    with load_engine(make_engine(tmp_path / "e", Tiny())) as engine:
        first = engine.forward(x=X, timestep=T)["y"]
        kept = first.copy()
        engine.forward(x=X + 1, timestep=T)
        np.testing.assert_array_equal(first, kept)


def test_fp16(tmp_path: Path) -> None:
    tiny = Tiny(dtype="fp16")
    with load_engine(make_engine(tmp_path / "e", tiny)) as engine:
        y = engine.forward(x=X.astype(np.float16), timestep=T)["y"]
    assert y.dtype == np.float16
    np.testing.assert_allclose(y.astype(np.float32), expect(tiny, X), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize(
    "convert",
    [torch.from_numpy, lambda a: torch.from_numpy(np.ascontiguousarray(a.T)).T, lambda a: a[::1]],
    ids=["torch", "torch transposed", "numpy view"],
)
def test_anything_with_dlpack(tmp_path: Path, convert: Callable[[Any], Any]) -> None:
    with load_engine(make_engine(tmp_path / "e", Tiny())) as engine:
        _close(engine.forward(x=convert(X), timestep=torch.tensor([1.0]))["y"], expect(Tiny(), X))


def test_read_only_and_unaligned_memory(tmp_path: Path) -> None:
    data = b"\0" + X.tobytes()
    x = np.frombuffer(data, np.float32, offset=1).reshape(6, 16)
    with load_engine(make_engine(tmp_path / "e", Tiny())) as engine:
        _close(engine.forward(x=x, timestep=T)["y"], expect(Tiny(), X))


def test_bound_inputs_live_as_long_as_the_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bind(binding: Any, name: str, value: Any) -> None:  # as onnxruntime 1.23 does
        binding._iobinding.bind_ortvalue_input(name, value._ortvalue)

    monkeypatch.setattr("onnxruntime.IOBinding.bind_ortvalue_input", bind)
    x = X.copy()
    alive = weakref.ref(x)
    engine = load_engine(make_engine(tmp_path / "e", Tiny()))
    engine.bind(x=x, timestep=T)
    del x
    assert alive() is not None
    engine.time_forward()
    engine.close()
    assert alive() is None


WRONG_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({"x": X}, "input timestep is missing"),
    "unknown": ({"x": X, "timestep": T, "z": X}, "no input z"),
    "adapter's": ({"x": X, "timestep": T, LORA_A: X}, "is the adapter's"),
    "shape": ({"x": X[:5], "timestep": T}, r"\[5, 16\], the engine takes \[6, 16\]"),
    "rank": ({"x": X[None], "timestep": T}, r"\[1, 6, 16\]"),
    "float64": ({"x": X.astype(float), "timestep": T}, "x is double, the engine takes fp32"),
    "fp16": ({"x": X.astype(np.float16), "timestep": T}, "x is fp16"),
    "bf16 tensor": ({"x": torch.from_numpy(X).bfloat16(), "timestep": T}, "x is bf16"),
    "list": ({"x": X.tolist(), "timestep": T}, "x is a list"),
    "objects": ({"x": X.astype(object), "timestep": T}, "dtype"),
    "big endian": ({"x": X.astype(">f4"), "timestep": T}, "dtype >f4"),
    "gradient": ({"x": torch.from_numpy(X).requires_grad_(), "timestep": T}, "DLPack"),
}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_wrong_inputs_are_named(tmp_path: Path, case: str) -> None:
    inputs, message = WRONG_INPUTS[case]
    with (
        load_engine(make_engine(tmp_path / "e", SWAPPABLE)) as engine,
        pytest.raises(EngineError, match=message) as caught,
    ):
        engine.forward(**inputs)
    assert "\n" not in str(caught.value)


def test_a_dynamic_engine_takes_every_workload(tmp_path: Path) -> None:
    tiny = Tiny(workloads=DYNAMIC)
    with load_engine(make_engine(tmp_path / "e", tiny)) as engine:
        for rows in (6, 10, 6):
            x = np.ones((rows, 16), np.float32)
            _close(engine.forward(x=x, timestep=T)["y"], expect(tiny, x))


def test_a_workload_pins_the_shapes(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny(workloads=DYNAMIC))
    with (
        load_engine(folder, workload="large") as engine,
        pytest.raises(EngineError, match=r"the workload's is \[10, 16\]"),
    ):
        engine.forward(x=X, timestep=T)
    with pytest.raises(EngineError, match="no workload 'huge'"):
        load_engine(folder, workload="huge")


def test_swap_there_and_back(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", SWAPPABLE)
    with load_engine(folder) as engine:
        base = engine.forward(x=X, timestep=T)["y"]
        _close(base, expect(SWAPPABLE, X))
        for rank in (4, 2):
            engine.swap(folder / "adapters" / f"r{rank}.safetensors")
            y = engine.forward(x=X, timestep=T)["y"]
            _close(y, expect(SWAPPABLE, X, adapter_tensors(rank)))
        engine.swap(None)
        np.testing.assert_array_equal(engine.forward(x=X, timestep=T)["y"], base)


def test_swapped_equals_separate(tmp_path: Path) -> None:
    separate = make_engine(tmp_path / "s", Tiny(mode="separate", rank=4))
    with load_engine(separate) as engine:
        want = engine.forward(x=X, timestep=T)["y"]
    folder = make_engine(tmp_path / "e", SWAPPABLE)
    with load_engine(folder) as engine:
        engine.swap(folder / "adapters" / "r4.safetensors")
        _close(engine.forward(x=X, timestep=T)["y"], want)


def test_an_adapter_without_modules_is_the_base(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", SWAPPABLE)
    empty = write_adapter(tmp_path / "empty.safetensors", {})
    with load_engine(folder) as engine:
        base = engine.forward(x=X, timestep=T)["y"]
        engine.swap(folder / "adapters" / "r4.safetensors")
        engine.swap(empty)
        np.testing.assert_array_equal(engine.forward(x=X, timestep=T)["y"], base)


def _adapter(**change: Any) -> dict[str, Any]:
    tensors = adapter_tensors(2) | change
    return {name: value for name, value in tensors.items() if value is not None}


WRONG_ADAPTERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "another format": (
        lambda p: write_adapter(p, adapter_tensors(2), format="pt"), "isn't a canonical"),
    "newer": (lambda p: write_adapter(p, adapter_tensors(2), version="2"), "has version 2"),
    "unknown tensor": (
        lambda p: write_adapter(p, _adapter(**{f"{MODULE}x.lora_A": np.ones((2, 16), "f4")})),
        f"nearest is {MODULE}.lora_A"),
    "another dtype": (
        lambda p: write_adapter(p, adapter_tensors(2, dtype="fp16")), "in F16, the engine"),
    "rank too large": (
        lambda p: write_adapter(p, adapter_tensors(5)), "has rank 5.*up to 4"),
    "another width": (lambda p: write_adapter(p, adapter_tensors(2, 8)), r"shape \[2, 8\]"),
    "not a matrix": (
        lambda p: write_adapter(p, _adapter(**{LORA_A: np.ones(16, "f4")})), r"shape \[16\]"),
    "half a pair": (
        lambda p: write_adapter(p, _adapter(**{LORA_B: None})), "without its other half"),
    "ranks differ": (
        lambda p: write_adapter(p, _adapter(**{LORA_B: np.ones((16, 3), "f4")})),
        "ranks 2 and 3"),
    "missing": (lambda _: None, "can't be read"),
    "empty": (lambda p: p.write_bytes(b""), "can't be read"),
    "a pickle": (lambda p: p.write_bytes(b"\x80\x04K\x01."), "can't be read"),
    "header lies": (lambda p: p.write_bytes(b"\xff" * 8 + b"{}"), "can't be read"),
    "cut off": (
        lambda p: p.write_bytes(write_adapter(p, adapter_tensors(2)).read_bytes()[:-1]),
        "can't be read"),
    "a folder": (Path.mkdir, "can't be read"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG_ADAPTERS)
def test_a_refused_adapter_changes_nothing(tmp_path: Path, case: str) -> None:
    make, message = WRONG_ADAPTERS[case]
    make(tmp_path / "x.safetensors")
    folder = make_engine(tmp_path / "e", SWAPPABLE)
    with load_engine(folder) as engine:
        engine.swap(folder / "adapters" / "r4.safetensors")
        before = engine.forward(x=X, timestep=T)["y"]
        with pytest.raises(AdapterError, match=message) as caught:
            engine.swap(tmp_path / "x.safetensors")
        np.testing.assert_array_equal(engine.forward(x=X, timestep=T)["y"], before)
    assert "\n" not in str(caught.value)
    assert f"wanexport adapter FILE --for {folder}" in caught.value.hint


def test_only_swappable_engines_swap(tmp_path: Path) -> None:
    with (
        load_engine(make_engine(tmp_path / "e", Tiny(mode="separate", rank=4))) as engine,
        pytest.raises(EngineError, match="its adapter is fixed"),
    ):
        engine.swap(None)


def test_swapping_needs_no_reload(tmp_path: Path) -> None:
    tiny = Tiny(mode="swappable", max_rank=32, adapters=(32,), width=512)
    folder = make_engine(tmp_path / "e", tiny)
    with load_engine(folder) as engine:
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            engine.swap(folder / "adapters" / "r32.safetensors")
            seconds.append(time.perf_counter() - start)
    assert min(seconds) < 0.05


def test_time_forward_runs_the_bound_inputs(tmp_path: Path) -> None:
    with load_engine(make_engine(tmp_path / "e", Tiny())) as engine:
        with pytest.raises(EngineError, match="no inputs are bound"):
            engine.time_forward()
        engine.bind(x=X, timestep=T)
        assert 0 < engine.time_forward() < 10
        assert "inputs and outputs resident" in engine.timed


def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    engine = load_engine(make_engine(tmp_path / "e", Tiny()))
    engine.close()
    engine.close()
    with pytest.raises(EngineError, match="is closed"):
        engine.forward(x=X, timestep=T)


def test_bf16_is_unsupported_on_a_cpu(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny(dtype="bf16"))
    with pytest.raises(UnsupportedError, match="bf16 doesn't run"):
        load_engine(folder)


def test_cuda_needs_its_extra(tmp_path: Path) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has the provider")
    with pytest.raises(UnsupportedError, match="no CUDAExecutionProvider") as caught:
        load_engine(make_engine(tmp_path / "e", Tiny()), device="cuda")
    assert "'.[gpu]'" in caught.value.hint


def test_missing_onnxruntime_names_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UnsupportedError, match="isn't installed") as caught:
        load_engine(make_engine(tmp_path / "e", Tiny()))
    assert "'.[cpu]'" in caught.value.hint


def test_a_graph_that_onnxruntime_refuses_is_an_engine_error(tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "e", Tiny())
    raw = read_raw(folder)
    (folder / "model.onnx").write_bytes(b"no graph")
    raw["graphs"]["forward"] |= {"bytes": 8, "sha256": sha256(b"no graph").hexdigest()}
    write_manifest(folder, raw)
    with pytest.raises(WanrtError, match="ONNX Runtime") as caught:
        load_engine(folder)
    assert "\n" not in str(caught.value)


def test_what_onnxruntime_cannot_say_in_utf8_is_an_engine_error(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder = make_engine(tmp_path / "e", Tiny())
    raw = read_raw(folder)
    graph = (folder / "model.onnx").read_bytes().replace(b"Gemm", b"Ge\xff\xfe")
    (folder / "model.onnx").write_bytes(graph)
    raw["graphs"]["forward"]["sha256"] = sha256(graph).hexdigest()
    write_manifest(folder, raw)
    with pytest.raises(WanrtError, match="ONNX Runtime"):
        load_engine(folder)
    assert capfd.readouterr() == ("", "")  # nor does it log in colours what it raises


def test_inputs_larger_than_memory_are_refused(tmp_path: Path) -> None:
    manifest = read_manifest(make_engine(tmp_path / "e", Tiny()))
    workload = manifest.workloads["64x32x1"].model_copy(update={"shapes": {"x": (2**40, 2**10)}})
    with pytest.raises(WanrtError, match=r"are \d+\.\d GiB, and this machine has"):
        make_inputs(manifest, workload, 0)


def test_inputs_depend_on_seed_and_name_alone(tmp_path: Path) -> None:
    full = read_manifest(make_engine(tmp_path / "a", Tiny()))
    half = read_manifest(make_engine(tmp_path / "b", Tiny(dtype="fp16")))
    workload = full.workloads["64x32x1"]
    one, two = make_inputs(full, workload, 3), make_inputs(half, workload, 3)
    np.testing.assert_array_equal(one["x"].astype(np.float16), two["x"])
    assert 0 <= one["timestep"][0] <= 1000
    assert abs(float(one["x"].astype(np.float32).std()) - 1) < 0.3
    assert (make_inputs(full, workload, 4)["x"] != one["x"]).any()
