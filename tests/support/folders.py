"""Checkpoints to build from, a study of four engines, and what to look at in engine folders."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from studies import I2V, build

from wanexport.checkpoint.random_weights import write_checkpoint
from wanrt.backends.load import load_engine
from wanrt.engine.inputs import make_inputs
from wanrt.manifest.plan import PlanFile
from wanrt.manifest.read import read_manifest
from wanrt.manifest.schema import Manifest

RANK = 4
MODES = ("full", "merged", "separate", "swappable")
Q = "blocks.0.attn2.to_q"


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints to build from; tests that change one copy it."""
    root = tmp_path_factory.mktemp("sources")
    write_checkpoint(root / "base", I2V, "fp32", 0, shard_bytes=1 << 20)
    write_checkpoint(root / "finetuned", I2V, "fp32", 1)
    write_checkpoint(root / "original", I2V, "fp32", 0, layout="original")
    write_lora(root / "style.safetensors")
    return root


def write_lora(path: Path, seed: int = 0, rank: int = RANK) -> Path:
    """Write an adapter of one module with an alpha of half its rank."""
    generator = torch.Generator().manual_seed(seed)
    width = I2V.width
    tensors = {
        f"transformer.{Q}.lora_A.weight": torch.randn(rank, width, generator=generator),
        f"transformer.{Q}.lora_B.weight": torch.randn(width, rank, generator=generator),
        f"transformer.{Q}.alpha": torch.tensor(rank / 2),
    }
    save_file(tensors, path)
    return path


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, sources: Path) -> Path:
    """Four engines of one base, linked; tests only read them."""
    out = tmp_path_factory.mktemp("study")
    build(out, ranks=(RANK,), base=str(sources / "base"), verify=False)
    return out


def manifests(out: Path) -> list[Manifest]:
    return [
        read_manifest(folder) for folder in sorted(out.iterdir()) if not folder.name.startswith(".")
    ]


def plan_of(manifest: Manifest) -> PlanFile:
    assert manifest.forward.plan is not None
    return manifest.forward.plan


def engines(out: Path) -> dict[str, Path]:
    return {
        read_manifest(folder).mode: folder
        for folder in sorted(out.iterdir())
        if not folder.name.startswith(".")
    }


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Return every file with its inode, size and mtime."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and path.name != ".lock":
            stat = path.stat()
            found[str(path.relative_to(folder))] = (stat.st_ino, stat.st_size, stat.st_mtime_ns)
    return found


def own_bytes(folder: Path) -> int:
    """Return what a folder's files take that nothing else links to."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in files if path.stat().st_nlink == 1)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def sample(folder: Path) -> np.ndarray:
    with load_engine(folder) as engine:
        (workload,) = engine.manifest.workloads.values()
        return engine.forward(**make_inputs(engine.manifest, workload, seed=0))["sample"]


def stored(folder: Path) -> dict[str, torch.Tensor]:
    """Return an engine's tensors by the names of its files."""
    tensors = {}
    for path in sorted((folder / "weights").iterdir()):
        tensors.update(load_file(path))
    return tensors
