"""TensorRT engines: load, refit, free; on a fake library and a fake GPU.

The fake library keeps the real one's signatures, which test_tensorrt_types.py checks; what it
computes is numpy's.
"""

from __future__ import annotations

import subprocess
import sys
import weakref
from pathlib import Path
from typing import Any

import faketensorrt
import faketrt
import numpy as np
import pytest
from fakecuda import FakeCuda
from faketrt import DYNAMIC, X, same
from tinyengines import numpy_dtype, read_raw, write_manifest, write_over
from trtengines import (
    WIDTH,
    K,
    Q,
    Trt,
    adapter,
    base,
    compute,
    draw,
    make_trt,
    own_parameters,
    save_adapter,
)

from wanrt import load_engine
from wanrt.backends.load import check_engine
from wanrt.backends.tensorrt import api as nvinfer
from wanrt.backends.tensorrt.cuda import Gpu
from wanrt.backends.tensorrt.memory import Scratch
from wanrt.errors import EngineError, ManifestError, UnsupportedError
from wanrt.manifest.folder import open_folder

cuda = faketrt.cuda  # a fixture
pytestmark = pytest.mark.usefixtures("cuda")


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
    write_over(folder / "weights/base.safetensors")
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


@pytest.mark.system
def test_the_real_library_says_why_it_refuses_a_plan(tmp_path: Path) -> None:
    path = tmp_path / "engine.plan"
    path.write_bytes(b"x" * 4096)
    code = (
        "from pathlib import Path\n"
        "from wanrt.backends.tensorrt import api as nvinfer\n"
        "from wanrt.errors import EngineError\n"
        "from wanrt.backends.tensorrt.library import dtype_name, open_plan, trt_dtype\n"
        "nvinfer.select('tensorrt-rtx')\n"
        "print([dtype_name(trt_dtype(dtype)) for dtype in ('fp32', 'fp16', 'bf16')])\n"
        f"try:\n    open_plan(Path({str(path)!r}))\n"
        "except EngineError as error:\n    print(error)\n"
    )  # in a process of its own, which runs one library
    argv = [sys.executable, "-c", code]
    runtime = Path(__file__).parents[4] / "runtime"
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
        check_engine(open_folder(folder))
        return
    with pytest.raises(UnsupportedError, match=message) as caught:
        load_engine(folder)
    assert caught.value.hint == "rebuild it: wanexport build --backend tensorrt --force"
    assert "--force" in caught.value.hint
    assert not faketensorrt.world.deserialized


def test_rtx_plans_run_on_all_their_capabilities(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvinfer, "_selected", ("tensorrt-rtx", faketensorrt))
    faketensorrt.reset(FakeCuda(Gpu("NVIDIA L4", "8.9")))
    check_engine(open_folder(make_trt(tmp_path / "e", Trt(backend="tensorrt-rtx"))))


@pytest.mark.parametrize("refit", ["targets", "all"])
def test_releases_that_lose_biases_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, refit: str
) -> None:
    monkeypatch.setattr(faketensorrt, "__version__", "11.3.0.9")
    plan = {"library": "11.3.0.9"}
    with pytest.raises(UnsupportedError, match="may lose biases"):
        load_engine(make_trt(tmp_path / "a", Trt(refit=refit, plan=plan)))
    check_engine(open_folder(make_trt(tmp_path / "b", Trt(plan=plan))))


def test_a_cpu_is_no_place_for_it(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="a tensorrt engine runs on a GPU alone"):
        load_engine(make_trt(tmp_path / "e"), device="cpu")


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
        with pytest.raises(
            UnsupportedError, match=r"applies to ONNX Runtime engines only; .* is a tensorrt engine"
        ):
            load_engine(folder, **options)
