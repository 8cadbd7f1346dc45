"""The emulated form of a bf16 engine: what is written, and what runs it on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from commands import wanrt
from safetensors import safe_open
from studies import I2V, T2V, build

from wanexport.errors import BuildError
from wanexport.graph.emulate import emulate
from wanrt.errors import UnsupportedError
from wanrt.manifest.folder import open_folder

BF16, FP32 = ir.DataType.BFLOAT16, ir.DataType.FLOAT
MOVED = (
    "Cast", "Concat", "Expand", "Gather", "Reshape", "Slice", "Split", "Transpose", "Unsqueeze",
)  # fmt: skip
NOTE = "emulated: bf16 rounding, fp32 arithmetic"


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Engines in bf16, by mode."""
    out = tmp_path_factory.mktemp("engines")
    built = build(out, I2V, modes=("full", "swappable"), ranks=(4,), dtype="bf16", verify=False)
    return {one.target.mode: one.path for one in built}


def test_every_operator_computes_in_fp32_and_rounds(engines: dict[str, Path]) -> None:
    for folder in engines.values():
        plain, graph = (ir.load(folder / name).graph for name in ("model.onnx", "emulated.onnx"))
        for node in graph:
            if node.op_type not in MOVED:
                values = [v for v in (*node.inputs, *node.outputs) if v is not None]
                assert BF16 not in {value.dtype for value in values}, node.name
        assert [(v.name, v.dtype) for v in plain.inputs] == [
            (v.name, v.dtype) for v in graph.inputs
        ]
        computed = {v.name for node in plain for v in node.outputs if v.dtype == BF16}
        rounded = {v.name for node in graph for v in node.outputs if v.dtype == BF16}
        assert computed == rounded


def test_it_reads_the_engines_own_weights(engines: dict[str, Path]) -> None:
    folder = engines["full"]

    def ranges(name: str) -> dict[str, tuple[object, ...]]:
        held = ir.load(folder / name).graph.initializers
        return {
            key: (value.dtype, tensor.location, tensor.offset, tensor.length)
            for key, value in held.items()
            if isinstance(tensor := value.const_value, ir.ExternalTensor)
        }

    assert ranges("emulated.onnx") == ranges("model.onnx")
    manifest = open_folder(folder).manifest
    assert manifest.forward.emulated is not None
    assert manifest.forward.emulated.bytes < 2 * manifest.forward.bytes
    assert wanrt("verify", folder).code == 0


def test_a_damaged_one_is_found(tmp_path: Path) -> None:
    (built,) = build(tmp_path, T2V, modes=("full",), dtype="bf16", verify=False)
    path = built.path / "emulated.onnx"
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    code, out, _ = wanrt("verify", built.path)
    assert code == 1
    assert "emulated.onnx: its bytes are not the recorded ones" in out


def test_run_says_that_it_emulates(engines: dict[str, Path], tmp_path: Path) -> None:
    saved = tmp_path / "out.safetensors"
    swappable = engines["swappable"]
    adapter = ("--adapter", swappable / "adapters" / "r4.safetensors")
    for arguments in ((engines["full"], "--device", "cpu"), (swappable, *adapter)):
        code, out, err = wanrt("run", *arguments, "--save", saved)
        assert code == 0, err
        assert NOTE in err
        assert "sample bfloat16" in out
        with safe_open(saved, framework="pt") as file:
            sample = file.get_tensor("sample").float().numpy()
        assert np.isfinite(sample).all()
        assert sample.any()


def test_nothing_else_emulates_unasked(engines: dict[str, Path]) -> None:
    import wanrt as package

    with pytest.raises(UnsupportedError, match="bf16 doesn't run on ONNX Runtime's CPU"):
        package.load_engine(engines["full"])
    _, out, err = wanrt("bench", engines["full"], "--loads", 1, "--rounds", 1)
    assert "bf16 doesn't run on ONNX Runtime's CPU" in out + err
    assert NOTE not in out + err


def test_an_fp32_engine_has_none(tmp_path: Path) -> None:
    (built,) = build(tmp_path, T2V, modes=("full",), verify=False)
    assert open_folder(built.path).manifest.forward.emulated is None
    assert not (built.path / "emulated.onnx").exists()
    code, _, err = wanrt("run", built.path, "--save", tmp_path / "out.safetensors")
    assert code == 0
    assert NOTE not in err


def test_a_value_of_no_dtype_is_refused(engines: dict[str, Path]) -> None:
    model = ir.load(engines["full"] / "model.onnx")
    node = next(node for node in model.graph if node.op_type == "Gemm")
    node.outputs[0].type = None
    with pytest.raises(BuildError, match="has no dtype"):
        emulate(model)
