"""Stacks of adapters and their strengths in libwanrt, against Python's wanrt."""

from __future__ import annotations

from pathlib import Path

import pytest
from cpphosts import BUILDS, host, needs_tools
from tinyengines import Tiny, adapter_tensors, make_engine, write_adapter

from wanrt.backends.load import load_engine
from wanrt.cli.run import save_tensors
from wanrt.engine.inputs import make_inputs
from wanrt.errors import WanrtError
from wanrt.manifest.read import read_manifest

pytestmark = needs_tools


@pytest.mark.parametrize("build", BUILDS)
def test_stacks_and_schedules_are_python_s_bit_by_bit(build: str, tmp_path: Path) -> None:
    folder = make_engine(tmp_path / "engine", Tiny(mode="swappable", max_rank=6, name="s"))
    one, two = (
        write_adapter(tmp_path / f"{rank}.safetensors", adapter_tensors(rank)) for rank in (2, 4)
    )
    manifest = read_manifest(folder)
    inputs = make_inputs(manifest, manifest.workloads["64x32x1"], 7)
    save_tensors(tmp_path / "inputs.safetensors", inputs, {})
    goldens = [tmp_path / f"golden{i}.safetensors" for i in range(4)]
    with load_engine(folder) as engine:
        for i, adapters in enumerate(([(one, 0.9), (two, -0.3)], None, two, None)):
            if i == 1:
                engine.set_strengths((0.25, 3))
            else:
                engine.swap(adapters)
            save_tensors(goldens[i], engine.forward(**inputs), {})
    done = host(
        build, folder, "--inputs", tmp_path / "inputs.safetensors", "--forwards", 1,
        "--adapter", f"{one}:0.9,{two}:-0.3", "--strengths", "0.25,3", "--adapter", two,
        "--adapter", "base", *(flag for golden in goldens for flag in ("--golden", golden)),
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("bit by bit") == 4


@pytest.mark.parametrize("strengths", ["2,1,1", "nan", "1e30", "0.5"])
def test_stacks_are_refused_in_python_s_words(strengths: str, tmp_path: Path) -> None:
    """Given with the files of an engine of four slots, of rank 2 each."""
    folder = make_engine(tmp_path / "engine", Tiny(mode="swappable", max_rank=4, name="s"))
    path = write_adapter(tmp_path / "x.safetensors", adapter_tensors(2))
    values = [float(one) for one in strengths.split(",")]
    with load_engine(folder) as engine, pytest.raises(WanrtError) as caught:
        engine.swap([(path, value) for value in values])
        engine.set_strengths([1, 1])
    adapters = ",".join(f"{path}:{one}" for one in strengths.split(","))
    done = host("sanitized", folder, "--adapter", adapters, "--strengths", "1,1")
    assert done.returncode == 1
    assert done.stderr == f"error: {caught.value}\nhint: {caught.value.hint}\n".replace(
        "\nhint: \n", "\n"
    )
