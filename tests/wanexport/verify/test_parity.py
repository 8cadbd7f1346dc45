"""Whole engines against diffusers' own model (and peft), through wanrt."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from studies import FLF2V, I2V, OTHER_SIZES, SIZE, T2V, build

from wanexport.build.recipe import Built
from wanexport.checkpoint.random_weights import write_checkpoint
from wanexport.errors import VerificationError
from wanexport.model.config import Architecture, Size
from wanexport.verify import compare
from wanrt.backends.load import load_engine
from wanrt.engine.inputs import make_inputs
from wanrt.manifest.schema import Workload

RANK = 4
TOLERANCE = 3e-6


def reference(
    built: Built, arch: Architecture, inputs: dict[str, np.ndarray], rank: int | None
) -> torch.Tensor:
    """Run diffusers' model, with the adapter attached by peft, on an engine's inputs."""
    made = built.path.parent / ".made"
    folder = made / "tiny-fp32-seed0"
    model = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder))
    for shard in folder.glob("*.safetensors"):
        model.load_state_dict(load_file(shard))
    if rank is not None:
        model.load_lora_adapter(
            made,
            weight_name=f"tiny-lora-r{rank}-seed0.safetensors",
            prefix="transformer",
            low_cpu_mem_usage=False,
        )
    feeds = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}
    if arch.pos_embed_seq_len is not None:
        image = feeds["encoder_hidden_states_image"]
        feeds["encoder_hidden_states_image"] = image.reshape(-1, 257, image.shape[-1])
    with torch.inference_mode():
        sample: torch.Tensor = model.eval()(**feeds, return_dict=False)[0]
    return sample


def relative(actual: np.ndarray, expected: torch.Tensor) -> float:
    difference = torch.from_numpy(actual.astype(np.float64)) - expected.double()
    return float(difference.norm() / expected.double().norm())


CASES = {
    "i2v": (I2V, SIZE),
    "i2v-batch2-odd": (I2V, Size(width=112, height=48, frames=9, batch=2)),
    "t2v": (T2V, SIZE),
    "t2v-batch2-tall": (T2V, Size(width=16, height=144, frames=1, batch=2)),
    "flf2v": (FLF2V, SIZE),
}


@pytest.mark.parametrize("case", CASES)
def test_every_mode_matches_diffusers_and_peft(case: str, tmp_path: Path) -> None:
    arch, size = CASES[case]
    for built in build(tmp_path, arch, size=size, ranks=(RANK,)):
        assert built.verification is not None
        with load_engine(built.path) as engine:
            workload = engine.manifest.workloads[size.name]
            inputs = make_inputs(engine.manifest, workload, seed=1)
            adapted = built.target.mode != "full"
            if built.target.mode == "swappable":
                base = engine.forward(**inputs)["sample"]
                assert relative(base, reference(built, arch, inputs, None)) < TOLERANCE
                engine.swap(built.path / "adapters" / f"r{RANK}.safetensors")
            sample = engine.forward(**inputs)["sample"]
            expected = reference(built, arch, inputs, RANK if adapted else None)
            assert relative(sample, expected) < TOLERANCE, built.target.mode


def test_dynamic_engine_matches_at_every_workload(tmp_path: Path) -> None:
    (built,) = build(tmp_path, I2V, modes=("separate",), ranks=(RANK,), dynamic=True)
    for size in (SIZE, *OTHER_SIZES):
        with load_engine(built.path, workload=size.name) as engine:
            inputs = make_inputs(engine.manifest, engine.manifest.workloads[size.name], seed=2)
            sample = engine.forward(**inputs)["sample"]
        assert relative(sample, reference(built, I2V, inputs, RANK)) < TOLERANCE


def test_swap_equals_a_fresh_separate_engine_and_swaps_back_exactly(tmp_path: Path) -> None:
    engines = {b.path.name: b for b in build(tmp_path, I2V, ranks=(2, 6))}
    swappable = next(b for b in engines.values() if b.target.mode == "swappable")
    with load_engine(swappable.path) as engine:
        inputs = make_inputs(engine.manifest, workload_of(engine.manifest.workloads), seed=3)
        first = engine.forward(**inputs)["sample"].copy()
        samples = {}
        for rank in (2, 6):
            engine.swap(swappable.path / "adapters" / f"r{rank}.safetensors")
            samples[rank] = engine.forward(**inputs)["sample"].copy()
        engine.swap(swappable.path / "adapters" / "r2.safetensors")
        again = engine.forward(**inputs)["sample"].copy()
        engine.swap(None)
        back = engine.forward(**inputs)["sample"].copy()
    assert np.array_equal(first, back)
    assert np.array_equal(samples[2], again)
    for rank in (2, 6):
        for mode in ("separate", "merged"):
            name = next(n for n in engines if n.endswith(f"{mode}-r{rank}"))
            with load_engine(tmp_path / name) as engine:
                other = engine.forward(**inputs)["sample"]
            assert relative(other, torch.from_numpy(samples[rank])) < TOLERANCE


def workload_of(workloads: dict[str, Workload]) -> Workload:
    (workload,) = workloads.values()
    return workload


@pytest.mark.parametrize("mode", ["merged", "separate", "swappable"])
def test_fp16_engine_is_as_good_as_pytorchs_fp16(mode: str, tmp_path: Path) -> None:
    (built,) = build(tmp_path, I2V, dtype="fp16", modes=(mode,), ranks=(RANK,))
    found = built.verification
    assert found is not None and found.error is not None and found.reference_error is not None
    assert found.error <= 1.5 * found.reference_error
    with load_engine(built.path) as engine:
        inputs = make_inputs(engine.manifest, workload_of(engine.manifest.workloads), seed=0)
        assert np.isfinite(engine.forward(**inputs)["sample"].astype(np.float32)).all()


def test_bf16_engine_is_verified_by_its_fp32_twin_and_emulated(tmp_path: Path) -> None:
    for built in build(tmp_path, I2V, dtype="bf16", ranks=(RANK,)):
        found = built.verification
        assert found is not None and found.error is not None
        assert found.dtype == "fp32"
        assert found.error <= TOLERANCE
        assert found.reference_error is not None and found.emulated_error is not None
        assert 1e-3 < found.emulated_error <= 1.5 * found.reference_error


def test_a_graph_that_is_right_in_fp32_alone_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fp32 twin has no bf16 in it, and can't see what rounding does."""
    monkeypatch.setattr(compare, "DTYPE_FACTOR", 0.2)
    with pytest.raises(VerificationError, match="bf16 graph's outputs, emulated, are off"):
        build(tmp_path, T2V, dtype="bf16", modes=("full",))


LARGE = {
    "first time layer": ("condition_embedder.time_embedder.linear_1.weight", 4),
    "all of the time": ("time", 4),
    "text": ("text_embedder", 4),
    "feed forward": ("ffn", 4),
    "attention": ("to_", 4),
    "everything": ("", 2),
}


@pytest.mark.parametrize("case", LARGE)
@pytest.mark.parametrize("arch", [I2V, T2V], ids=["i2v", "t2v"])
def test_a_sound_base_with_large_weights_is_built(
    case: str, arch: Architecture, tmp_path: Path
) -> None:
    part, factor = LARGE[case]
    write_checkpoint(tmp_path / "base", arch, "fp32", 0)
    for shard in (tmp_path / "base").glob("*.safetensors"):
        tensors = load_file(shard)
        for name, tensor in tensors.items():
            if part in name and name.endswith("weight"):
                tensors[name] = tensor * factor
        save_file(tensors, shard)
    dtype = "bf16" if case == "first time layer" else "fp32"
    (built,) = build(
        tmp_path / "e", arch, dtype=dtype, modes=("full",), base=str(tmp_path / "base")
    )
    assert built.verification is not None and built.verification.error is not None
    assert built.verification.error < TOLERANCE / 2


def test_a_refusal_names_large_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "FP32_TOLERANCE", 1e-9)
    with pytest.raises(VerificationError, match="off by") as caught:
        build(tmp_path, T2V, modes=("full",))
    assert "large values" in caught.value.hint
    assert not [one for one in tmp_path.iterdir() if not one.name.startswith(".")]
