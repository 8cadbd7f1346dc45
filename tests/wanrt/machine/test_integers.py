"""Which CPUs add integer products exactly, by what the kernel says of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from wanrt.machine.integers import saturates


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("flags\t\t: fpu avx2 fma\n", True),
        ("flags\t\t: fpu avx2 avx512_vnni\n", False),
        ("flags\t\t: fpu avx2 avx_vnni_int8\n", True),
        ("flags\t\t: avx2 avx_vnni\nflags\t\t: avx2 avx_vnni\n", False),
        ("flags\t\t: fpu amx_int8\n", False),
        ("Features\t: asimd\n", True),
        (None, True),
    ],
)
def test_vnni_and_amx_are_exact(text: str | None, expected: bool, tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    assert saturates(path) is expected
