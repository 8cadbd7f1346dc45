"""TensorRT engines: load, refit, bind, graphs, swap, free; on a fake library and a fake GPU.

The fake library keeps the real one's signatures, which test_tensorrt_types.py checks; what it
computes is numpy's.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faketensorrt
import ml_dtypes
import numpy as np
import pytest
import torch
from fakecuda import FakeCuda
from faketrt import install
from tinyengines import numpy_dtype, read_raw, touch_ns, write_manifest
from trtengines import (
    MAX_RANK,
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

from wanrt import load_engine, nvinfer
from wanrt.engine import check_engine
from wanrt.errors import AdapterError, EngineError, ManifestError, UnsupportedError
from wanrt.gpus import Gpu
from wanrt.trt_memory import Scratch

X = draw(100, 6, WIDTH)


@pytest.fixture(autouse=True)
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    yield from install(monkeypatch)


def same(got: Any, want: Any) -> None:
    np.testing.assert_allclose(
        got.astype(np.float32), want.astype(np.float32), rtol=2e-2, atol=2e-2
    )


def exact(got: Any, want: Any) -> None:
    np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))


# loading and weights


@pytest.mark.parametrize("refit", ["baked", "none", "targets", "all"])
@pytest.mark.parametrize("mode", ["full", "merged", "separate"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_forward_computes_with_the_folder_s_weights(
    tmp_path: Path, mode: str, refit: str, dtype: str
) -> None:
    trt = Trt(mode=mode, refit=refit, dtype=dtype)
    x = X.astype(numpy_dtype(dtype))
    with load_engine(make_trt(tmp_path / "e", trt)) as engine:
        y = engine.forward(x=x)["y"]
    assert y.dtype == numpy_dtype(dtype)
    same(y, compute(own_parameters(trt), x))


def test_weights_are_given_once_from_the_mapped_file(tmp_path: Path, cuda: FakeCuda) -> None:
    with load_engine(make_trt(tmp_path / "e", Trt(refit="all"))):
        (given,) = faketensorrt.world.refit_calls
        assert sorted(given) == sorted(base(Trt()))
        assert not cuda.copied  # the refitter reads the file's own pages


def test_a_shared_plan_s_values_are_replaced_by_the_folder_s(tmp_path: Path) -> None:
    others = {name: np.ones_like(value).tolist() for name, value in base(Trt()).items()}
    for refit in ("targets", "all"):
        free = list(base(Trt())) if refit == "all" else [f"{Q}.weight", f"{K}.weight"]
        held = others | {n: v.tolist() for n, v in base(Trt()).items() if n not in free}
        trt = Trt(mode="merged", refit=refit, fake={"baked": held})
        with load_engine(make_trt(tmp_path / refit, trt)) as engine:
            same(engine.forward(x=X)["y"], compute(own_parameters(trt), X))


def test_a_plan_that_wants_unknown_weights_is_refused(tmp_path: Path) -> None:
    folder = make_trt(tmp_path / "e", Trt(refit="all"))
    manifest = read_raw(folder)
    del manifest["graphs"]["forward"]["plan"]["weights"]["bias"]
    write_manifest(folder, manifest)
    with pytest.raises(EngineError, match="don't belong together: the plan wants weights 'bias'"):
        load_engine(folder)


def test_weights_of_another_size_or_dtype_are_refused(tmp_path: Path) -> None:
    folder = make_trt(tmp_path / "e", Trt(refit="all"))
    manifest = read_raw(folder)
    manifest["graphs"]["forward"]["plan"]["weights"]["bias"]["dtype"] = "fp16"
    write_manifest(folder, manifest)
    with pytest.raises(EngineError, match="takes 16 of fp32 as bias, the file has 32 of fp16"):
        load_engine(folder)


def test_a_failed_refit_quotes_tensorrt(tmp_path: Path) -> None:
    faketensorrt.world.refits_that_fail.add(1)
    with pytest.raises(EngineError, match="can't refit the weights: refit failed"):
        load_engine(make_trt(tmp_path / "e"))


def test_weights_that_were_written_over_are_refused(tmp_path: Path) -> None:
    folder = make_trt(tmp_path / "e")
    touch_ns(folder / "weights/base.safetensors", 1)
    with pytest.raises(ManifestError, match="mtime"):
        load_engine(folder)


def test_what_is_no_plan_is_refused_in_one_line(tmp_path: Path) -> None:
    folder = make_trt(tmp_path / "e")
    size = (folder / "engine.plan").stat().st_size
    (folder / "engine.plan").write_bytes(b"\0" * size)
    with pytest.raises(EngineError) as caught:
        load_engine(folder)
    assert str(caught.value) == (
        f"{folder}/engine.plan: TensorRT refuses the plan: "
        "Serialization assertion magicTag == rtMagic failed"
    )


def test_the_real_library_says_why_it_refuses_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "engine.plan"
    path.write_bytes(b"x" * 4096)
    code = (
        "from pathlib import Path\n"
        "from wanrt import nvinfer\n"
        "from wanrt.errors import EngineError\n"
        "from wanrt.trt_library import dtype_name, open_plan, trt_dtype\n"
        "nvinfer.select('tensorrt-rtx')\n"
        "print([dtype_name(trt_dtype(dtype)) for dtype in ('fp32', 'fp16', 'bf16')])\n"
        f"try:\n    open_plan(Path({str(path)!r}))\n"
        "except EngineError as error:\n    print(error)\n"
    )  # in a process of its own, which runs one library
    argv = [sys.executable, "-c", code]
    runtime = Path(__file__).parents[1] / "runtime"
    done = subprocess.run(argv, cwd=runtime, capture_output=True, text=True, check=True)
    dtypes, error = done.stdout.splitlines()
    assert dtypes == "['fp32', 'fp16', 'bf16']"
    assert error.startswith(f"{path}: TensorRT refuses the plan: ")
    assert "magicTag" in error


Y = {"dtype": "FLOAT", "input": False, "shape": [6, WIDTH]}
BELONG: dict[str, tuple[dict[str, Any], str]] = {
    "profiles": ({"profiles": [{}, {}]}, "the number of profiles is 2 in the plan, 1 in engine"),
    "refittable": ({"refittable": []}, "having refittable weights is False in the plan, True"),
    "dtype": (
        {"io": {"x": {"dtype": "HALF", "input": True, "shape": [6, WIDTH]}}},
        "input x is fp16 in the plan, fp32 in engine.json",
    ),
    "int64": (
        {"io": {"x": {"dtype": "INT64", "input": True, "shape": [6, WIDTH]}}},
        "input x is DataType.INT64 in the plan",
    ),
    "shape": (
        {"io": {"x": {"dtype": "FLOAT", "input": True, "shape": [7, WIDTH]}, "y": Y}},
        r"x in profile 0 is \[7, 16\] in the plan, \[6, 16\] in engine.json",
    ),
    "missing": ({"io": {}}, "input x is not there in the plan"),
}


@pytest.mark.parametrize("case", BELONG)
def test_a_plan_that_isn_t_the_manifest_s_is_refused(tmp_path: Path, case: str) -> None:
    fake, message = BELONG[case]
    with pytest.raises(EngineError, match=f"don't belong together: {message}"):
        load_engine(make_trt(tmp_path / "e", Trt(fake=fake)))


# what may run where

GPUS: dict[str, tuple[dict[str, Any], Gpu, str | None]] = {
    "version": ({"library": "11.3.0.9"}, Gpu("Fake GPU", "8.9"), "built by tensorrt 11.3.0.9, th"),
    "compatible": (
        {"library": "10.16.1.11", "version_compatible": True}, Gpu("Fake GPU", "8.9"), None,
    ),
    "newer, compatible": (
        {"library": "11.5.0.1", "version_compatible": True}, Gpu("Fake GPU", "8.9"), "11.5.0.1",
    ),
    "other model": ({}, Gpu("NVIDIA L4", "8.9"), "built for Fake GPU, this GPU is NVIDIA L4, 8.9"),
    "same capability": (
        {"hardware_compatibility": "samecomputecapability"}, Gpu("NVIDIA L4", "8.9"), None,
    ),
    "other capability": (
        {"hardware_compatibility": "samecomputecapability"}, Gpu("NVIDIA H100", "9.0"),
        "built for compute capability 8.9, this GPU is NVIDIA H100, 9.0",
    ),
    "ampere+": ({"hardware_compatibility": "ampere+"}, Gpu("NVIDIA H100", "9.0"), None),
    "before ampere": (
        {"hardware_compatibility": "ampere+"}, Gpu("Tesla T4", "7.5"), "built for 8.0 and newer",
    ),
    "built without a GPU": ({"gpu": None}, Gpu("NVIDIA L4", "8.9"), None),
}  # fmt: skip


@pytest.mark.parametrize("case", GPUS)
def test_a_plan_for_another_version_or_gpu_is_refused_before_it_is_read(
    tmp_path: Path, case: str
) -> None:
    plan, gpu, message = GPUS[case]
    faketensorrt.reset(FakeCuda(gpu))
    folder = make_trt(tmp_path / "e", Trt(plan=plan))
    if message is None:
        assert check_engine(folder).name == "e"
        return
    with pytest.raises(UnsupportedError, match=message) as caught:
        load_engine(folder)
    assert "wanexport build --config" in caught.value.hint
    assert "--force" in caught.value.hint
    assert not faketensorrt.world.deserialized


def test_rtx_plans_run_on_all_their_capabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvinfer, "_selected", ("tensorrt-rtx", faketensorrt))
    faketensorrt.reset(FakeCuda(Gpu("NVIDIA L4", "8.9")))
    assert check_engine(make_trt(tmp_path / "e", Trt(backend="tensorrt-rtx"))).name == "e"


@pytest.mark.parametrize("refit", ["targets", "all"])
def test_releases_that_lose_biases_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: str
) -> None:
    monkeypatch.setattr(faketensorrt, "__version__", "11.3.0.9")
    plan = {"library": "11.3.0.9"}
    with pytest.raises(UnsupportedError, match="may lose biases"):
        load_engine(make_trt(tmp_path / "a", Trt(refit=refit, plan=plan)))
    assert check_engine(make_trt(tmp_path / "b", Trt(plan=plan))).name == "b"


def test_a_cpu_is_no_place_for_it(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="a tensorrt engine runs on a GPU alone"):
        load_engine(make_trt(tmp_path / "e"), device="cpu")


# inputs and outputs


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


class OnDevice:
    """A tensor in the fake GPU's memory, with DLPack."""

    def __init__(self, cuda: FakeCuda, array: Any, offset: int = 0, gpu: int = 0) -> None:
        self.cuda, self.gpu = cuda, gpu
        self.block = cuda.malloc(array.nbytes + 256)
        cuda.read(self.block + offset, array.shape, array.dtype)[:] = array
        host = cuda.read(self.block + offset, array.shape, array.dtype)
        self.tensor = torch.from_numpy(host)
        self.streams: list[int] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.gpu)

    def __dlpack__(self, stream: int | None = None) -> Any:
        from wanrt.dlpack import _read_capsule

        assert stream is not None
        self.streams.append(stream)
        capsule = self.tensor.__dlpack__()
        raw = _read_capsule("x", capsule)
        raw.device.type, raw.device.id = 2, self.gpu
        return capsule

    def free(self) -> None:
        self.cuda.free(self.block)


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


# profiles

DYNAMIC = Trt(workloads={"small": 6, "large": 10})


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


# timing and graphs


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


# weight streaming

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


# swapping inputs


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


# swapping weights

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


# freeing


@pytest.mark.parametrize("mode", ["merged", "swappable"])
def test_closing_frees_tensorrt_s_objects(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    alive: list[Any] = []
    create = faketensorrt.Runtime.deserialize_cuda_engine

    def remember(runtime: Any, plan: Any) -> Any:
        alive.append(weakref.ref(engine := create(runtime, plan)))
        return engine

    monkeypatch.setattr(faketensorrt.Runtime, "deserialize_cuda_engine", remember)
    engine = load_engine(make_trt(tmp_path / "e", Trt(mode=mode, refit="all")))
    engine.swap(save_adapter(tmp_path / "a.safetensors", adapter(3, Q)))
    engine.forward(x=X)
    engine.close()
    assert [ref() for ref in alive] == [None] * (2 if mode == "merged" else 1)


def test_everything_is_freed_once(tmp_path: Path, cuda: FakeCuda) -> None:
    engine = load_engine(make_trt(tmp_path / "e", Trt(mode="swappable")))
    engine.forward(x=X)
    engine.time_forward()
    engine.close()
    engine.close()
    assert cuda.clean
    for call in (lambda: engine.forward(x=X), engine.time_forward, lambda: engine.swap(None)):
        with pytest.raises(EngineError, match="the engine is closed"):
            call()


@pytest.mark.parametrize("size", [1, 500, 6000])
def test_a_load_or_bind_without_memory_gives_back_what_it_took(
    tmp_path: Path, cuda: FakeCuda, size: int
) -> None:
    folder = make_trt(tmp_path / "e", Trt(mode="swappable"))
    cuda.fail_mallocs_from = size
    with pytest.raises(EngineError, match="out of memory"), load_engine(folder) as engine:
        engine.forward(x=X)
    assert cuda.clean


def test_engines_that_take_turns_share_their_activations(tmp_path: Path, cuda: FakeCuda) -> None:
    scratch = Scratch()
    small = load_engine(make_trt(tmp_path / "small"), scratch=scratch)
    small.bind(x=X)
    small.time_forward()
    alone = cuda.taken
    large = load_engine(make_trt(tmp_path / "large", DYNAMIC), scratch=scratch)
    x = draw(8, 10, WIDTH)
    for _ in range(2):
        same(large.forward(x=x)["y"], compute(base(DYNAMIC), x))
        same(small.forward(x=X)["y"], compute(base(Trt()), X))  # though the block has moved
        small.time_forward()
    assert cuda.taken - alone < 10_000  # of which the larger block's growth is 4000
    small.close()
    same(large.forward(x=x)["y"], compute(base(DYNAMIC), x))
    large.close()
    assert cuda.clean


def test_options_of_the_other_backend_are_refused(tmp_path: Path) -> None:
    folder = make_trt(tmp_path / "e")
    for options in ({"threads": 2}, {"mapped": True}):
        with pytest.raises(UnsupportedError, match=r"is a tensorrt engine, .* is nothing to it"):
            load_engine(folder, **options)  # type: ignore[arg-type]
