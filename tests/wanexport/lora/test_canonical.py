"""Adapter files that are written here."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from lorafiles import ARCH, CROSS, IMAGE, SHAPES, T2V_ARCH, TEXT_CROSS, LoraFile, make_lora, noise
from safetensors import safe_open
from safetensors.torch import load_file

from wanexport.errors import AdapterError
from wanexport.lora.adapter import Adapter, resolve_adapter
from wanexport.lora.canonical import write_adapter
from wanexport.lora.random_adapter import seeded_adapter
from wanexport.lora.targets import select_modules
from wanexport.model.config import Config, Size, load_config
from wanrt.manifest.fields import Dtype

Q = "blocks.0.attn2.to_q"
TORCH_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
TINY = Config(name="tiny", architecture=ARCH, size=Size(width=64, height=64, frames=5))


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def open_lora(made: LoraFile, path: Path, strength: float = 1.0) -> Adapter:
    return resolve_adapter(made.save(path), SHAPES, strength)


def metadata_of(path: Path) -> dict[str, str]:
    with safe_open(path, framework="np") as file:
        return dict(file.metadata())


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("dtype", TORCH_DTYPES)
def test_one_adapter(dtype: Dtype, tmp_path: Path) -> None:
    made = make_lora("D-musubi", CROSS, rank=4, alpha=2.0)
    adapter = open_lora(made, tmp_path / "lora.safetensors", 0.5)
    path = tmp_path / "canonical.safetensors"
    assert write_adapter([adapter], path, dtype, max_rank=4, targets=CROSS) == 4
    tensors = load_file(path)
    assert set(tensors) == {f"{m}.lora_{half}" for m in CROSS for half in "AB"}
    assert {tensor.dtype for tensor in tensors.values()} == {TORCH_DTYPES[dtype]}
    a, b = adapter.by_parameter[f"{Q}.weight"][0].low_rank()
    assert tensors[f"{Q}.lora_A"].equal(a.to(TORCH_DTYPES[dtype]))
    assert tensors[f"{Q}.lora_B"].equal((2 * b).to(TORCH_DTYPES[dtype]))
    if dtype == "fp32":
        gain = tensors[f"{Q}.lora_B"] @ tensors[f"{Q}.lora_A"]
        torch.testing.assert_close(gain, made.gains[f"{Q}.weight"])  # the strength is left out
    assert metadata_of(path) == {
        "format": "wanexport-adapter",
        "version": "1",
        "rank": "4",
        "source_sha256": sha256(adapter.path),
        "random_weights": "false",
    }


def test_several_adapters_stack_their_ranks(tmp_path: Path) -> None:
    first, second = make_lora("E-diffsynth", CROSS, rank=3), make_lora("D-musubi", IMAGE, rank=5)
    adapters = [
        open_lora(first, tmp_path / "a.safetensors"),
        open_lora(second, tmp_path / "b.safetensors", -0.25),
    ]
    path = tmp_path / "canonical.safetensors"
    assert write_adapter(adapters, path, "fp32", max_rank=None, targets=CROSS) == 8
    tensors = load_file(path)
    for module in CROSS:
        gain = tensors[f"{module}.lora_B"] @ tensors[f"{module}.lora_A"]
        wanted = first.gains[f"{module}.weight"]
        if module in IMAGE:
            wanted = wanted + second.gains[f"{module}.weight"]
        torch.testing.assert_close(gain, wanted, rtol=1e-5, atol=1e-4)
        assert tensors[f"{module}.lora_A"].shape[0] == (8 if module in IMAGE else 3)
    metadata = metadata_of(path)
    assert metadata["source_sha256"] == ",".join(sha256(a.path) for a in adapters)


def test_canonical_adapter_resolves_to_itself(tmp_path: Path) -> None:
    adapter = open_lora(make_lora("D-musubi", CROSS, alpha=1.0), tmp_path / "a.safetensors")
    paths = tmp_path / "b.safetensors", tmp_path / "c.safetensors"
    write_adapter([adapter], paths[0], "fp32", max_rank=None, targets=CROSS)
    again = resolve_adapter(paths[0], SHAPES)
    write_adapter([again], paths[1], "fp32", max_rank=None, targets=CROSS)
    first, second = map(load_file, paths)
    assert all(first[name].equal(second[name]) for name in first)


def with_dora() -> LoraFile:
    made = make_lora("A-diffusers", [Q])
    made.tensors[f"transformer.{Q}.lora_magnitude_vector"] = torch.ones(128)
    return made


def with_large_b() -> LoraFile:
    made = make_lora("A-diffusers", [Q])
    made.tensors[f"transformer.{Q}.lora_B.weight"] *= 1e6
    return made


@pytest.mark.parametrize(
    ("made", "max_rank", "targets", "message"),
    [
        (make_lora("A-diffusers", CROSS, rank=9), 8, CROSS, r"rank 9 at .* takes up to 8"),
        (make_lora("A-diffusers", CROSS), 8, IMAGE, r"no inputs for blocks\.0\.attn2\.\S+ and 7"),
        (with_dora(), 8, CROSS, r"DoRA of blocks\.0\.attn2\.to_q\.weight can't be swapped"),
        (with_large_b(), 8, CROSS, r"to_q\.lora_B overflows F16"),
        (None, 8, CROSS, r"there is no LoRA"),
    ],
    ids=["rank", "target", "rest", "overflow", "nothing"],
)
def test_refuses(
    made: LoraFile | None, max_rank: int, targets: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    adapters = [open_lora(made, tmp_path / "a.safetensors")] if made else []
    path = tmp_path / "canonical.safetensors"
    with pytest.raises(AdapterError, match=message) as raised:
        write_adapter(adapters, path, "fp16", max_rank=max_rank, targets=targets)
    assert raised.value.hint
    assert not path.exists()


def test_default_targets() -> None:
    targets = select_modules(load_config("wan2.1-i2v-14b-480p").architecture, "cross-attention")
    assert len(targets) == 240
    assert targets[-1] == "blocks.39.attn2.add_v_proj"
    assert set(select_modules(ARCH, "cross-attention")) == set(CROSS)
    assert set(select_modules(T2V_ARCH, "cross-attention")) == set(TEXT_CROSS)


@pytest.mark.parametrize("rank", [1, 8, 64])
def test_seeded_adapter_has_a_visible_effect_at_any_rank(rank: int, tmp_path: Path) -> None:
    path = tmp_path / "seeded.safetensors"
    seeded_adapter(path, SHAPES, CROSS, rank, seed=3)
    adapter = resolve_adapter(path, SHAPES)
    assert adapter.ranks == dict.fromkeys(sorted(CROSS), rank)
    assert adapter.random_weights
    assert adapter.dialect == "diffusers (transformer.) + metadata"
    weight, x = noise(128, 128, seed="W") / 128**0.5, noise(64, 128, seed="x")
    effects = [
        float((x @ delta.change(weight).T).norm() / (x @ weight.T).norm())
        for delta in adapter.deltas
    ]
    assert 0.05 < sum(effects) / len(effects) < 0.1
    canonical = tmp_path / "canonical.safetensors"
    write_adapter([adapter], canonical, "fp32", max_rank=rank, targets=CROSS)
    assert metadata_of(canonical)["random_weights"] == "true"


def test_seeded_tensors_depend_on_seed_and_name_alone(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.safetensors" for i in range(3)]
    seeded_adapter(paths[0], SHAPES, CROSS, 4, seed=3)
    seeded_adapter(paths[1], SHAPES, CROSS[:1:-1], 4, seed=3)
    seeded_adapter(paths[2], SHAPES, CROSS, 4, seed=4)
    whole, part, other = map(load_file, paths)
    assert all(tensor.equal(whole[name]) for name, tensor in part.items())
    assert not any(tensor.equal(whole[name]) for name, tensor in other.items())
    assert len({tuple(tensor.flatten()[:4].tolist()) for tensor in whole.values()}) == len(whole)
