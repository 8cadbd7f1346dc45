"""`wanrt explain`: what it can't read is refused in two lines."""

from __future__ import annotations

from pathlib import Path

from commands import wanrt


def test_an_engine_without_a_readable_plan_is_refused(family: Path) -> None:
    code, out, err = wanrt("explain", family / "tiny-full")
    assert (code, out) == (1, "")
    assert "its kernels can't be read: it is an engine of onnxruntime" in err
    assert "hint: the kernels of TensorRT-RTX engines can be read" in err
