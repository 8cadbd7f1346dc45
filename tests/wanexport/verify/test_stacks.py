"""Stacks of adapters with strengths, in whole engines, against PEFT and against merged engines."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from commands import wanexport, wanrt
from diffusers import WanTransformer3DModel
from safetensors.numpy import load_file as load_arrays
from safetensors.torch import load_file
from studies import SIZE, build

from wanexport.lora.find import LoraArgument
from wanrt.backends.load import load_engine
from wanrt.engine.inputs import make_inputs
from wanrt.manifest.read import read_manifest

RANKS = (2, 6)
TOLERANCE = 3e-6
STRENGTHS = [(1.0, 1.0), (0.9, -0.3), (0.0, 2.5), (0.0, 0.0)]


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random adapters on all linear layers, and an engine that they fill."""
    out = tmp_path_factory.mktemp("stacks")
    build(out, modes=("swappable",), ranks=RANKS, max_rank=sum(RANKS), targets=("all",))
    return out


def engine_in(out: Path) -> Path:
    (path,) = out.glob("tiny-*")
    return path


def files(out: Path) -> list[Path]:
    return [engine_in(out) / "adapters" / f"r{rank}-all.safetensors" for rank in RANKS]


def by_peft(out: Path, strengths: tuple[float, ...], inputs: dict[str, np.ndarray]) -> torch.Tensor:
    """Run diffusers' model with both adapters attached and weighted by PEFT."""
    folder = out / ".made" / "tiny-fp32-seed0"
    model = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder))
    for shard in folder.glob("*.safetensors"):
        model.load_state_dict(load_file(shard))
    names = [f"r{rank}" for rank in RANKS]
    for rank, name in zip(RANKS, names, strict=True):
        model.load_lora_adapter(
            out / ".made", weight_name=f"tiny-lora-r{rank}-all-seed0.safetensors",
            prefix="transformer", adapter_name=name, low_cpu_mem_usage=False,
        )  # fmt: skip
    model.set_adapters(names, list(strengths))
    feeds = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
    with torch.inference_mode():
        sample: torch.Tensor = model.eval()(**feeds, return_dict=False)[0]
    return sample


def distance(actual: np.ndarray, expected: np.ndarray) -> float:
    difference = actual.astype(np.float64) - expected
    return float(np.linalg.norm(difference) / np.linalg.norm(expected))


@pytest.mark.filterwarnings("ignore:Already found a .peft_config.")  # PEFT, of a second adapter
def test_strengths_are_peft_s_weights(out: Path) -> None:
    with load_engine(engine_in(out)) as engine:
        inputs = make_inputs(engine.manifest, engine.manifest.workloads[SIZE.name], seed=1)
        base = engine.forward(**inputs)["sample"]
        engine.swap([(file, 0.0) for file in files(out)])
        for strengths in STRENGTHS:
            engine.set_strengths(strengths)
            sample = engine.forward(**inputs)["sample"]
            expected = by_peft(out, strengths, inputs).numpy()
            assert distance(sample, expected) < TOLERANCE
            if any(strengths):
                assert distance(sample, base) > 1e-2
            else:
                assert np.array_equal(sample, base)


def test_a_stack_is_what_merging_both_files_gives(out: Path, tmp_path: Path) -> None:
    made = out / ".made"
    loras = tuple(
        LoraArgument(str(made / f"tiny-lora-r{rank}-all-seed0.safetensors"), strength)
        for rank, strength in zip(RANKS, (0.9, -0.3), strict=True)
    )
    built = build(
        tmp_path, modes=("merged", "separate", "swappable"), loras=loras,
        base=str(made / "tiny-fp32-seed0"),
    )  # fmt: skip
    samples = {}
    for one in built:
        manifest = read_manifest(one.path)
        with load_engine(one.path) as engine:
            inputs = make_inputs(manifest, manifest.workloads[SIZE.name], seed=1)
            for stack in manifest.stacks:
                engine.swap([(one.path / file.file, file.strength) for file in stack])
            samples[manifest.mode] = engine.forward(**inputs)["sample"]
    (swappable,) = (one.path for one in built if one.target.mode == "swappable")
    (stack,) = read_manifest(swappable).stacks
    assert [(file.rank, file.strength) for file in stack] == [(2, 0.9), (6, -0.3)]
    assert distance(samples["swappable"], samples["merged"]) < TOLERANCE
    assert distance(samples["separate"], samples["merged"]) < TOLERANCE


@pytest.mark.parametrize("dtype", ["fp16", "bf16"])
def test_16_bit_engines_are_verified_at_their_strengths(dtype: str, tmp_path: Path) -> None:
    build(tmp_path / "seeded", modes=("swappable",), ranks=(4,), verify=False)
    made = tmp_path / "seeded" / ".made"
    (built,) = build(
        tmp_path / "engines", modes=("swappable",), dtype=dtype, base=str(made / "tiny-fp32-seed0"),
        loras=(LoraArgument(str(made / "tiny-lora-r4-seed0.safetensors"), 0.7),),
    )  # fmt: skip
    found = built.verification
    assert found is not None
    assert found.error is not None
    assert found.tolerance is not None
    assert found.error < found.tolerance


def test_the_command_line_loads_stacks(out: Path, tmp_path: Path) -> None:
    first, second = files(out)
    flags = ("--seed", 3, "--save")
    both = tmp_path / "both.safetensors"
    outcome = wanrt("run", engine_in(out), "--adapter", f"{first}:0.9", "--adapter",
                    f"{second}:-0.3", *flags, both)  # fmt: skip
    assert outcome.code == 0, outcome.err
    with load_engine(engine_in(out)) as engine:
        inputs = make_inputs(engine.manifest, engine.manifest.workloads[SIZE.name], seed=3)
        engine.swap([(first, 0.9), (second, -0.3)])
        assert np.array_equal(engine.forward(**inputs)["sample"], load_arrays(both)["sample"])
    for flag, problem in {
        f"{first}:much": "'much' is not a strength",
        f"{first}:nan": "strength nan isn't finite",
        f"{first}:": "'' is not a strength",
    }.items():
        refused = wanrt(
            "run", engine_in(out), "--adapter", flag, *flags, tmp_path / "no.safetensors"
        )
        assert refused.code == 1
        assert problem in refused.err
        assert not (tmp_path / "no.safetensors").exists()


def test_an_engine_is_compared_at_full_strength(out: Path) -> None:
    outcome = wanexport("compare", engine_in(out), "diffusers", "--adapter", files(out)[1])
    assert outcome.code == 0, outcome.err
