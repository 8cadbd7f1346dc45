"""TensorRT engines: inputs by array or DLPack, outputs, profiles; on a fake library and GPU."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path
from typing import Any

import faketrt
import ml_dtypes
import numpy as np
import pytest
import torch
from fakecuda import FakeCuda
from faketrt import DYNAMIC, OnDevice, X, exact, same
from trtengines import WIDTH, Q, Trt, base, compute, draw, make_trt

from wanrt import load_engine
from wanrt.errors import EngineError

cuda = faketrt.cuda  # a fixture
pytestmark = pytest.mark.usefixtures("cuda")


def test_outputs_are_the_caller_s(tmp_path: Path) -> None:
    with load_engine(make_trt(tmp_path / "e")) as engine:
        first = engine.forward(x=X)["y"]
        kept = first.copy()
        engine.forward(x=X + 1)
        exact(first, kept)


@pytest.mark.parametrize(
    "convert",
    [torch.from_numpy, lambda a: torch.from_numpy(np.ascontiguousarray(a.T)).T, lambda a: a[::1]],
    ids=["torch", "torch transposed", "numpy view"],
)
def test_anything_with_dlpack(tmp_path: Path, convert: Any) -> None:
    with load_engine(make_trt(tmp_path / "e")) as engine:
        same(engine.forward(x=convert(X))["y"], compute(base(Trt()), X))


def test_bf16_tensors_without_numpy(tmp_path: Path) -> None:
    x = torch.from_numpy(X).bfloat16()
    for tensor in (x, x.T.contiguous().T):
        with load_engine(make_trt(tmp_path / f"e{tensor.stride()}", Trt(dtype="bf16"))) as engine:
            want = compute(base(Trt(dtype="bf16")), X.astype(ml_dtypes.bfloat16))
            exact(engine.forward(x=tensor)["y"], want)


def test_a_tensor_on_the_gpu_is_read_where_it_lies(tmp_path: Path, cuda: FakeCuda) -> None:
    x = OnDevice(cuda, X)
    alive = weakref.ref(x)
    with load_engine(make_trt(tmp_path / "e"), stream=77) as engine:
        engine.bind(x=x)
        assert cuda.copied == []
        assert x.streams == [77]
        cuda.read(x.block, X.shape, X.dtype)[:] = X + 1  # written in place by its owner
        engine.time_forward()
        block = x.block
        del x
        assert alive() is not None
        same(engine.forward(x=X)["y"], compute(base(Trt()), X))
        gc.collect()
        assert alive() is None
        cuda.free(block)


def test_an_unaligned_tensor_on_the_gpu_is_copied_there(tmp_path: Path, cuda: FakeCuda) -> None:
    x = OnDevice(cuda, X, offset=64)
    with load_engine(make_trt(tmp_path / "e")) as engine:
        same(engine.forward(x=x)["y"], compute(base(Trt()), X))
        assert [way for way, _ in cuda.copied] == ["on", "out"]
    x.free()


def test_a_tensor_on_another_gpu_is_refused(tmp_path: Path, cuda: FakeCuda) -> None:
    x = OnDevice(cuda, X, gpu=1)
    with load_engine(make_trt(tmp_path / "e")) as engine, pytest.raises(EngineError, match="GPU 1"):
        engine.bind(x=x)
    x.free()


WRONG_INPUTS: dict[str, tuple[dict[str, Any], str]] = {
    "missing": ({}, "input x is missing"),
    "unknown": ({"x": X, "z": X}, "no input z"),
    "adapter's": ({"x": X, f"{Q}.lora_A": X}, "is the adapter's"),
    "shape": ({"x": X[:5]}, r"\[5, 16\], the engine takes \[6, 16\]"),
    "float64": ({"x": X.astype(float)}, "x is float64, the engine takes fp32"),
    "fp16": ({"x": torch.from_numpy(X).half()}, "x is fp16, the engine takes fp32"),
    "int64 tensor": ({"x": torch.from_numpy(X).long()}, "x is int64, the engine takes fp32"),
    "list": ({"x": X.tolist()}, "x is a list"),
    "objects": ({"x": X.astype(object)}, "dtype"),
    "gradient": ({"x": torch.from_numpy(X).requires_grad_()}, "DLPack"),
}


@pytest.mark.parametrize("case", WRONG_INPUTS)
def test_wrong_inputs_are_named_and_change_nothing(tmp_path: Path, case: str) -> None:
    inputs, message = WRONG_INPUTS[case]
    with load_engine(make_trt(tmp_path / "e", Trt(mode="swappable"))) as engine:
        engine.bind(x=X)
        with pytest.raises(EngineError, match=message):
            engine.bind(**inputs)
        assert engine.time_forward() > 0  # on what was bound before


def test_the_profile_follows_the_shapes(tmp_path: Path) -> None:
    with load_engine(make_trt(tmp_path / "e", DYNAMIC)) as engine:
        for rows in (10, 6, 10):
            x = draw(7, rows, WIDTH)
            same(engine.forward(x=x)["y"], compute(base(DYNAMIC), x))


def test_shapes_of_no_workload_are_refused_with_those_there_are(tmp_path: Path) -> None:
    with load_engine(make_trt(tmp_path / "e", DYNAMIC)) as engine:
        with pytest.raises(EngineError, match=r"no workload has the shapes x \[7, 16\]") as caught:
            engine.forward(x=draw(7, 7, WIDTH))
        assert caught.value.hint == "there are small: x [6, 16]; large: x [10, 16]"


def test_a_pinned_workload_takes_its_shapes_alone(tmp_path: Path) -> None:
    folder = make_trt(tmp_path / "e", DYNAMIC)
    with (
        load_engine(folder, workload="large") as engine,
        pytest.raises(EngineError, match=r"the workload's is \[10, 16\]"),
    ):
        engine.forward(x=X)
    with pytest.raises(EngineError, match="no workload 'huge'"):
        load_engine(folder, workload="huge")
