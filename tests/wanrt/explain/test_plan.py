"""A plan's text becomes kernels, or one clear refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanrt.errors import EngineError
from wanrt.explain.plan import read_kernels

HEADER = b"vtrt".ljust(24, b"\0") + bytes((1, 7, 1, 116)) + b"\0"
TEXT = b"""
descriptors {
  tensor={ dims={ 4 8 } name="x" type=bf16 }
  tensor={ dims={ 8 2 } name="w" type=bf16 }
  tensor={ dims={ 4 2 } name="y" type=float }
  sub_tensor={ base="x" const_offset=0 dims={ 4 8 } name="x^deref" type=bf16 }
  sub_tensor={ base="x" const_offset=0 dims={ 4 8 } name="x^again" type=bf16 }
}
main {
  fully_connected={ name="fc" output={"y" } input={"x^deref" "x^again" "w" } stream=3 \
layers="[ONNX Layer: a]\x1f[ONNX Layer: b]" }
}
"""
INSIDE = b"""\0
descriptors {
}
main {
  function={ name=again input_args={ } output_args={ "q" } }
}
\0"""


def write(folder: Path, data: bytes) -> Path:
    """Return a file that holds the bytes."""
    path = folder / "engine.plan"
    path.write_bytes(data)
    return path


def test_a_kernel_counts_each_place_once_and_a_fusions_inside_never(tmp_path: Path) -> None:
    (kernel,) = read_kernels(write(tmp_path, HEADER + TEXT + INSIDE))
    assert (kernel.name, kernel.kind, kernel.stream) == ("fc", "fully_connected", 3)
    assert kernel.nodes == ("a", "b")
    assert kernel.bytes == 4 * 8 * 2 + 8 * 2 * 2 + 4 * 2 * 4


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "isn't a TensorRT-RTX plan"),
        (HEADER.replace(b"\x07", b"\x09") + TEXT + b"\0", "1.9.1.116, whose text isn't known"),
        (HEADER + b"nothing", "has no descriptors"),
        (HEADER + TEXT.replace(b"type=float", b"type=odd") + b"\0", "tensor 'y' has type 'odd'"),
        (HEADER + TEXT.replace(b'"w" }', b'"v" }') + b"\0", "operand 'v' without a type"),
        (HEADER + TEXT.replace(b"fully_connected", b"wait") + b"\0", "lists no kernels"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_reason(
    tmp_path: Path, data: bytes, why: str
) -> None:
    with pytest.raises(EngineError, match=why):
        read_kernels(write(tmp_path, data))


def test_a_plan_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="No such file"):
        read_kernels(tmp_path / "engine.plan")


@given(at=st.integers(0, len(TEXT) - 1), new=st.binary(max_size=6))
def test_damage_is_read_or_refused_and_never_a_traceback(
    tmp_path_factory: pytest.TempPathFactory, at: int, new: bytes
) -> None:
    damaged = TEXT[:at] + new + TEXT[at + len(new) :]
    path = write(tmp_path_factory.mktemp("plan"), HEADER + damaged + b"\0")
    try:
        kernels = read_kernels(path)
    except EngineError:
        return
    assert all(kernel.outputs for kernel in kernels)
