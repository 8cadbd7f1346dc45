"""The fake TensorRT and its GPU in the real ones' place, and what tests of engines there share."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faketensorrt
import numpy as np
import pytest
from fakecuda import FakeCuda
from trtengines import WIDTH, Trt, draw

from wanrt.backends.tensorrt import api as nvinfer
from wanrt.backends.tensorrt.dlpack import _read_capsule

X = draw(100, 6, WIDTH)
DYNAMIC = Trt(workloads={"small": 6, "large": 10})


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """A fake GPU; whatever a test took of it must be given back."""
    fake = FakeCuda()
    faketensorrt.reset(fake)
    monkeypatch.setattr(nvinfer, "_selected", ("tensorrt", faketensorrt))
    monkeypatch.setattr("wanrt.backends.tensorrt.check.open_cuda", lambda: faketensorrt.world.cuda)
    monkeypatch.setattr("wanrt.backends.tensorrt.cuda.open_cuda", lambda: faketensorrt.world.cuda)
    yield fake
    assert faketensorrt.world.cuda.clean


def same(got: Any, want: Any) -> None:
    """Check that arrays are about equal."""
    np.testing.assert_allclose(
        got.astype(np.float32), want.astype(np.float32), rtol=2e-2, atol=2e-2
    )


def exact(got: Any, want: Any) -> None:
    """Check that arrays are equal bit by bit."""
    np.testing.assert_array_equal(got.view(np.uint8), want.view(np.uint8))


class OnDevice:
    """A tensor in the fake GPU's memory, with DLPack."""

    def __init__(self, cuda: FakeCuda, array: Any, offset: int = 0, gpu: int = 0) -> None:
        self.cuda, self.gpu = cuda, gpu
        self.block = cuda.malloc(array.nbytes + 256)
        cuda.read(self.block + offset, array.shape, array.dtype)[:] = array
        self.host = cuda.read(self.block + offset, array.shape, array.dtype)
        self.streams: list[int] = []

    def __dlpack_device__(self) -> tuple[int, int]:
        return (2, self.gpu)

    def __dlpack__(self, stream: int | None = None) -> Any:
        assert stream is not None
        self.streams.append(stream)
        capsule = self.host.__dlpack__()
        raw = _read_capsule("x", capsule)
        raw.device.type, raw.device.id = 2, self.gpu
        return capsule

    def free(self) -> None:
        self.cuda.free(self.block)
