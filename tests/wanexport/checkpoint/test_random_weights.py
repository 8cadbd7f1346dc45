from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpointfiles import FLF2V, I2V
from diffusers import WanTransformer3DModel
from safetensors import safe_open

from wanexport.checkpoint.open import open_checkpoint
from wanexport.checkpoint.random_weights import (
    checkpoint_specs,
    ensure_demo_checkpoint,
    make_tensors,
    write_checkpoint,
)
from wanexport.errors import CheckpointError
from wanexport.model.config import Architecture, load_config
from wanexport.storage.tensor_file import StoredTensor
from wanrt.manifest.fields import Dtype

T2V = Architecture(num_layers=2, num_attention_heads=2, ffn_dim=512, in_channels=16, text_dim=64)


def draw(name: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    return next(make_tensors([StoredTensor(name, "F32", shape)], seed))


@pytest.mark.parametrize(
    ("name", "shape", "mean", "std"),
    [
        ("blocks.0.attn1.to_q.weight", (512, 2048), 0, 1 / math.sqrt(2048)),
        ("patch_embedding.weight", (512, 36, 1, 2, 2), 0, 1 / 12),
        ("blocks.0.attn1.norm_q.weight", (65_536,), 1, 0.02),
        ("blocks.0.attn1.to_q.bias", (65_536,), 0, 0.02),
        ("blocks.0.scale_shift_table", (1, 6, 16_384), 0, 1 / 128),
        ("condition_embedder.image_embedder.pos_embed", (1, 514, 256), 0, 0.02),
    ],
    ids=["linear", "patch", "norm", "bias", "modulation", "positions"],
)
def test_draws_weights_like_weights(
    name: str, shape: tuple[int, ...], mean: float, std: float
) -> None:
    values = draw(name, shape)
    assert values.mean().item() == pytest.approx(mean, abs=5 * std / math.sqrt(values.numel()))
    assert values.std().item() == pytest.approx(std, rel=0.02)
    kurtosis = ((values - values.mean()) / values.std()).pow(4).mean().item()
    assert kurtosis == pytest.approx(3, abs=0.15)  # normal, not uniform


def test_repeats_no_row_of_a_large_matrix() -> None:
    values = draw("blocks.0.ffn.net.0.proj.weight", (4096, 1024))  # four blocks of a stream
    assert torch.unique(values, dim=0).shape == values.shape
    assert torch.unique(values[:, 0]).numel() > 4000


def test_a_tensor_depends_on_its_name_and_the_seed_alone() -> None:
    specs = [StoredTensor(f"blocks.{i}.attn1.to_q.weight", "F32", (64, 64)) for i in range(3)]
    together = list(make_tensors(specs, 0))
    assert torch.equal(together[2], draw(specs[2].name, (64, 64)))
    assert not torch.equal(together[2], together[1])
    assert not torch.equal(together[2], draw(specs[2].name, (64, 64), seed=1))


@pytest.mark.parametrize("arch", [I2V, T2V, FLF2V], ids=["i2v", "t2v", "flf2v"])
def test_diffusers_loads_what_is_written(arch: Architecture, tmp_path: Path) -> None:
    total = sum(spec.nbytes for spec in checkpoint_specs(arch, "fp32"))
    written: list[int] = []
    write_checkpoint(tmp_path, arch, "fp32", 7, shard_bytes=total // 3, on_bytes=written.append)
    assert sum(written) == total
    files = sorted(path.name for path in tmp_path.iterdir())
    count = len(files) - 2
    assert count >= 3
    assert files == [
        "config.json",
        *(f"diffusion_pytorch_model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)),
        "diffusion_pytorch_model.safetensors.index.json",
    ]
    for name in files[1:-1]:
        with safe_open(tmp_path / name, framework="pt") as shard:
            assert shard.metadata()["wanexport.random"] == "true"
    model, info = WanTransformer3DModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    refs = open_checkpoint(str(tmp_path), arch).tensors
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, refs[name].read())


def test_layouts_and_dtypes_hold_the_same_weights(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "bf16", FLF2V, "bf16", 3)
    write_checkpoint(tmp_path / "original", FLF2V, "fp32", 3, layout="original")
    half = open_checkpoint(str(tmp_path / "bf16"))
    full = open_checkpoint(str(tmp_path / "original"))
    assert (half.layout, full.layout) == ("diffusers", "original")
    assert half.architecture == full.architecture == FLF2V
    for name, ref in half.tensors.items():
        assert torch.equal(ref.read(), full.tensors[name].read().bfloat16())


@pytest.mark.parametrize("arch", [I2V, load_config("wan2.1-i2v-demo").architecture])
def test_blocks_neither_explode_nor_die(arch: Architecture, tmp_path: Path) -> None:
    write_checkpoint(tmp_path, arch, "fp32", 0)
    model = WanTransformer3DModel.from_pretrained(tmp_path).eval()
    rms: list[float] = []
    for block in model.blocks:
        block.register_forward_hook(
            lambda _, __, out: rms.append(out.square().mean().sqrt().item())
        )
    draws = torch.Generator().manual_seed(0)
    with torch.no_grad():
        sample = model(
            torch.randn(1, arch.in_channels, 2, 8, 12, generator=draws),
            torch.tensor([500.0]),
            torch.randn(1, 512, arch.text_dim, generator=draws),
            torch.randn(1, 257, arch.image_dim or 0, generator=draws),
            return_dict=False,
        )[0]
    assert torch.isfinite(sample).all()
    assert 0.3 < sample.std().item() < 3
    assert all(0.3 < value < 3 for value in rms)
    assert max(rms) < 2 * min(rms)


class TestEnsureDemoCheckpoint:
    def ensure(self, folder: Path, dtype: Dtype = "fp32", seed: int = 0) -> bool:
        return ensure_demo_checkpoint(folder, I2V, dtype, seed)

    def inodes(self, folder: Path) -> dict[str, int]:
        return {path.name: path.stat().st_ino for path in folder.iterdir()}

    def test_is_made_once(self, tmp_path: Path) -> None:
        folder = tmp_path / "new" / "demo"
        assert self.ensure(folder)
        before = self.inodes(folder)
        assert not self.ensure(folder)
        assert self.inodes(folder) == before
        assert open_checkpoint(str(folder), I2V).random_weights

    @pytest.mark.parametrize(("dtype", "seed"), [("bf16", 0), ("fp32", 1)])
    def test_another_recipe_replaces_it(self, dtype: Dtype, seed: int, tmp_path: Path) -> None:
        folder = tmp_path / "demo"
        self.ensure(folder)
        shard = next(folder.glob("*.safetensors"))
        os.link(shard, tmp_path / "linked")
        before = shard.read_bytes()
        assert self.ensure(folder, dtype, seed)
        assert shard.read_bytes() != before
        assert (tmp_path / "linked").read_bytes() == before
        assert {path.name for path in tmp_path.iterdir()} == {"demo", ".demo.lock", "linked"}

    @pytest.mark.parametrize("pattern", ["*.safetensors", "*.index.json", "config.json"])
    @pytest.mark.parametrize("damage", ["missing", "truncated"])
    def test_a_damaged_one_is_made_again(self, pattern: str, damage: str, tmp_path: Path) -> None:
        folder = tmp_path / "demo"
        self.ensure(folder)
        path = next(folder.glob(pattern))
        whole = path.read_bytes()
        path.unlink()
        if damage == "truncated":
            path.write_bytes(whole[:-4])
        assert self.ensure(folder)
        assert path.read_bytes() == whole

    def test_leaves_a_strangers_folder_alone(self, tmp_path: Path) -> None:
        (tmp_path / "notes.txt").write_text("mine")
        with pytest.raises(CheckpointError, match="isn't a checkpoint of random weights"):
            self.ensure(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

    def test_an_interruption_leaves_nothing(self, tmp_path: Path) -> None:
        def interrupt(_: int) -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            ensure_demo_checkpoint(tmp_path / "demo", I2V, "fp32", 0, interrupt)
        assert [path.name for path in tmp_path.iterdir()] == [".demo.lock"]

    def test_sweeps_what_a_killed_process_left(self, tmp_path: Path) -> None:
        (tmp_path / ".demo.abc.draft").mkdir()
        assert self.ensure(tmp_path / "demo")
        assert {path.name for path in tmp_path.iterdir()} == {"demo", ".demo.lock"}

    def test_two_processes_make_one(self, tmp_path: Path) -> None:
        code = (
            "import json, sys; from pathlib import Path\n"
            "from wanexport.model.config import Architecture\n"
            "from wanexport.checkpoint.random_weights import ensure_demo_checkpoint\n"
            "arch = Architecture.model_validate(json.loads(sys.argv[2]))\n"
            "print(ensure_demo_checkpoint(Path(sys.argv[1]), arch, 'fp32', 0))\n"
        )
        argv = [sys.executable, "-c", code, str(tmp_path / "demo"), json.dumps(I2V.model_dump())]
        racers = [subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        said = sorted(racer.communicate(timeout=60)[0].strip() for racer in racers)
        assert said == ["False", "True"]
