"""An int8 engine in libwanrt, against Python's wanrt."""

from __future__ import annotations

from pathlib import Path

import pytest
from cpphosts import BUILDS, host, needs_tools
from studies import SIZE, build

from wanrt.backends.load import load_engine
from wanrt.cli.run import save_tensors
from wanrt.engine.inputs import make_inputs

pytestmark = needs_tools


@pytest.mark.parametrize("kind", BUILDS)
def test_integer_products_are_python_s_bit_by_bit(kind: str, tmp_path: Path) -> None:
    (built,) = build(
        tmp_path, modes=("separate",), ranks=(4,), quantize="int8", verify=False
    )  # its outputs are checked in tests/wanexport/build
    with load_engine(built.path) as engine:
        inputs = make_inputs(engine.manifest, engine.manifest.workloads[SIZE.name], 7)
        golden = engine.forward(**inputs)
    save_tensors(tmp_path / "inputs.safetensors", inputs, {})
    save_tensors(tmp_path / "golden.safetensors", golden, {})
    done = host(
        kind, built.path, "--inputs", tmp_path / "inputs.safetensors", "--forwards", 1,
        "--golden", tmp_path / "golden.safetensors",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bit by bit") == 1
