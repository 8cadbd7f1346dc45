"""Engines that share no file: what onnx's tools read, and what computes the same."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from commands import wanexport, wanrt
from safetensors.numpy import load_file
from studies import I2V, build

from wanexport.checkpoint.random_weights import write_checkpoint
from wanrt import load_engine
from wanrt.manifest.folder import open_folder

Pair = tuple[Path, Path]
MODES = ("full", "merged", "separate", "swappable")


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("linked")
    write_checkpoint(root / "base", I2V, "fp32", 0)
    build(root / "out", modes=MODES, ranks=(4,), base=str(root / "base"), verify=False)
    build(root / "out", modes=("merged",), ranks=(4,), base=str(root / "base"), verify=False,
          dtype="bf16")  # fmt: skip
    return root / "out"


def of(engines: Path, mode: str, dtype: str = "fp32") -> Path:
    (found,) = engines.glob(f"*-{dtype}-{mode}*")
    return found


@pytest.fixture(params=MODES)
def pair(request: pytest.FixtureRequest, engines: Path, tmp_path: Path) -> Pair:
    engine = of(engines, request.param)
    outcome = wanexport("detach", engine, "-o", tmp_path / "own")
    assert outcome.code == 0, outcome.err
    return engine, tmp_path / "own"


def outputs(engine: Path, folder: Path) -> dict[str, np.ndarray]:
    save = folder / f"{engine.parent.name}-{engine.name}.safetensors"
    manifest = open_folder(engine).manifest
    adapter = [("--adapter", engine / file.file) for file in manifest.adapters[:1]]
    outcome = wanrt("run", engine, "--save", save, *(part for pair in adapter for part in pair))
    assert outcome.code == 0, outcome.err
    return load_file(save)


def test_it_computes_the_same_and_is_one_of_its_own(pair: Pair, tmp_path: Path) -> None:
    engine, own = pair
    expected, found = (
        outputs(engine, tmp_path),
        outputs(own, tmp_path),
    )
    assert all(np.array_equal(expected[name], found[name]) for name in expected)
    assert all(path.stat().st_nlink == 1 for path in own.rglob("*") if path.is_file())
    assert wanrt("verify", own).code == 0
    assert wanexport("detach", own, "-o", own, "--force").code == 0
    assert not list(own.parent.glob(".*"))


def test_tools_that_refuse_links_read_it(pair: Pair) -> None:
    engine, own = pair
    onnx.checker.check_model(own / "model.onnx")
    assert onnx.load(own / "model.onnx").graph.node
    model = ir.load(own / "model.onnx")
    for value in model.graph.initializers.values():
        assert value.const_value is not None
        value.const_value.numpy()
    with pytest.raises(onnx.checker.ValidationError, match="hard link"):
        onnx.load(engine / "model.onnx")


def test_it_holds_only_what_the_graph_reads(engines: Path, tmp_path: Path) -> None:
    engine = of(engines, "merged")
    assert wanexport("detach", engine, "-o", tmp_path / "own").code == 0
    manifest = open_folder(tmp_path / "own").manifest
    held = sum(file.bytes for file in manifest.weights)
    assert manifest.weight_bytes <= held < manifest.weight_bytes + (1 << 16)
    assert held < sum(file.bytes for file in open_folder(engine).manifest.weights)


def test_a_bf16_engine_keeps_its_emulated_form(engines: Path, tmp_path: Path) -> None:
    engine = of(engines, "merged", "bf16")
    assert wanexport("detach", engine, "-o", tmp_path / "own").code == 0
    expected, found = (
        outputs(engine, tmp_path),
        outputs(tmp_path / "own", tmp_path),
    )
    assert all(np.array_equal(expected[name], found[name]) for name in expected)


def test_onnx_runtime_takes_hard_links(engines: Path) -> None:
    """The day it refuses them, as onnx does, engines need copies by default."""
    engine = of(engines, "full")
    assert any(path.stat().st_nlink > 1 for path in (engine / "weights").iterdir())
    with load_engine(engine):
        pass


def test_refusals_leave_nothing(engines: Path, tmp_path: Path) -> None:
    engine = of(engines, "full")
    there = tmp_path / "there"
    there.mkdir()
    (there / "mine").write_text("mine")
    assert "exists" in wanexport("detach", engine, "-o", there).err
    outcome = wanexport("detach", engine, "-o", there, "--force")
    assert (outcome.code, "can't be replaced" in outcome.err) == (1, True)
    assert "inside an engine" in wanexport("detach", engine, "-o", engine / "own").err
    broken = tmp_path / "broken"
    shutil.copytree(engine, broken)
    (broken / "model.onnx").write_bytes(b"x" * (broken / "model.onnx").stat().st_size)
    assert "sha256" in wanexport("detach", broken, "-o", tmp_path / "own").err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken", "there"]
