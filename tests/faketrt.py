"""Puts the fake TensorRT and its GPU in the real ones' place."""

from __future__ import annotations

from collections.abc import Iterator

import faketensorrt
import pytest
from fakecuda import FakeCuda

from wanrt import nvinfer


def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeCuda]:
    """Yield a fake GPU to a test; whatever it took of that must be given back."""
    fake = FakeCuda()
    faketensorrt.reset(fake)
    monkeypatch.setattr(nvinfer, "_selected", ("tensorrt", faketensorrt))
    monkeypatch.setattr("wanrt.trt_check.open_cuda", lambda: faketensorrt.world.cuda)
    monkeypatch.setattr("wanrt.cuda.open_cuda", lambda: faketensorrt.world.cuda)
    yield fake
    assert faketensorrt.world.cuda.clean
