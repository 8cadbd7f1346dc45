"""wanrt's CUDA over the real cuda-bindings, as far as no GPU is needed, and over a made-up one."""

from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import wanrt.backends.tensorrt.cuda
from wanrt.backends.tensorrt.cuda import CudaRuntime, find_gpu
from wanrt.errors import EngineError, UnsupportedError

SOURCE = Path(wanrt.backends.tensorrt.cuda.__file__).read_text(encoding="utf-8")
NAMES = sorted(set(re.findall(r'"(cuda[A-Z]\w+)"', SOURCE)))

CALLS: dict[str, tuple[int, ...]] = {
    "device": (), "gpu": (), "malloc": (8,), "free": (4096,), "copy_in": (4096, 4096, 8, 1),
    "copy_out": (4096, 4096, 8, 1), "copy": (4096, 4096, 8, 1), "create_stream": (),
    "destroy_stream": (1,), "synchronize": (1,), "create_event": (), "destroy_event": (1,),
    "record": (1, 1), "elapsed_s": (1, 1), "begin_capture": (1,), "end_capture": (1,),
    "launch": (1, 1), "destroy_graph": (1,),
}  # fmt: skip


def test_every_function_is_one_of_cuda_bindings() -> None:
    from cuda.bindings import runtime

    functions = [name for name in NAMES if not name.startswith("cudaMemcpyD")]
    assert len(functions) > 15
    assert [
        n for n in functions if not hasattr(runtime, n) and not hasattr(runtime.cudaMemcpyKind, n)
    ] == []
    assert runtime.cudaStreamNonBlocking == 1
    assert runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal == 1
    assert {"cudaMemcpyHostToDevice", "cudaMemcpyDeviceToHost", "cudaMemcpyDeviceToDevice"} <= set(
        dir(runtime.cudaMemcpyKind)
    )


@pytest.mark.skipif(find_gpu() is not None, reason="its handles are made up")
@pytest.mark.parametrize("method", CALLS)
def test_cuda_bindings_takes_integers_and_its_errors_become_ours(method: str) -> None:
    from cuda.bindings import runtime

    with pytest.raises(EngineError, match=r"cuda\w+: .*driver.* \(CUDA error \d+\)"):
        getattr(CudaRuntime(runtime), method)(*CALLS[method])


@pytest.mark.skipif(find_gpu() is not None, reason="there is one")
def test_no_gpu_is_said_in_one_line() -> None:
    with pytest.raises(UnsupportedError, match="no GPU: cudaGetDevice: ") as caught:
        wanrt.backends.tensorrt.cuda.open_cuda()
    assert "driver" in caught.value.hint


class Code(IntEnum):
    cudaSuccess = 0  # noqa: N815
    cudaErrorMemoryAllocation = 2  # noqa: N815
    cudaErrorStreamCaptureInvalidated = 901  # noqa: N815


def make_runtime(**functions: Any) -> CudaRuntime:
    text = {0: b"no error", 2: b"out of memory", 901: b"capture was invalidated"}
    common = {
        "cudaError_t": Code,
        "cudaGetErrorString": lambda code: (Code.cudaSuccess, text[int(code)]),
    }
    return CudaRuntime(SimpleNamespace(**common, **functions))  # type: ignore[arg-type]


def test_no_memory_says_what_to_do() -> None:
    cuda = make_runtime(cudaMalloc=lambda _: (Code.cudaErrorMemoryAllocation, None))
    with pytest.raises(EngineError, match="out of memory") as caught:
        cuda.malloc(1 << 40)
    assert "weights" in caught.value.hint


def test_seconds_and_the_device() -> None:
    properties = SimpleNamespace(name=b"NVIDIA L4\0\0\0", major=8, minor=9)
    cuda = make_runtime(
        cudaGetDevice=lambda: (Code.cudaSuccess, 0),
        cudaGetDeviceProperties=lambda _: (Code.cudaSuccess, properties),
        cudaEventSynchronize=lambda _: (Code.cudaSuccess,),
        cudaEventElapsedTime=lambda *_: (Code.cudaSuccess, 2500.0),
    )
    assert (cuda.gpu().name, cuda.gpu().capability) == ("NVIDIA L4", "8.9")
    assert cuda.elapsed_s(1, 2) == 2.5


def test_a_graph_that_can_t_be_made_is_destroyed() -> None:
    destroyed: list[int] = []

    def destroy(graph: int) -> tuple[Code]:
        destroyed.append(graph)
        return (Code.cudaSuccess,)

    cuda = make_runtime(
        cudaStreamEndCapture=lambda _: (Code.cudaSuccess, 7),
        cudaGraphInstantiate=lambda *_: (Code.cudaErrorMemoryAllocation, None),
        cudaGraphDestroy=destroy,
    )
    with pytest.raises(EngineError, match="cudaGraphInstantiate"):
        cuda.end_capture(1)
    assert destroyed == [7]


def test_an_abandoned_capture_raises_nothing() -> None:
    invalid = (Code.cudaErrorStreamCaptureInvalidated, None)
    make_runtime(cudaStreamEndCapture=lambda _: invalid).abandon_capture(1)
