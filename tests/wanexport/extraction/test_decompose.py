"""Factors of changes against numpy's exact SVD, and what a change is measured to be, by hand."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from wanexport.extraction.change import measure_change
from wanexport.extraction.decompose import Factors, decompose, decompose_product
from wanexport.storage.tensor_file import TensorRef, open_safetensors


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def product(factors: Factors) -> torch.Tensor:
    return factors.up.T @ factors.down


@pytest.mark.parametrize("shape", [(200, 120), (120, 200), (30, 300)], ids=str)
def test_is_nearly_the_best_of_its_rank(shape: tuple[int, int]) -> None:
    left, _, right = torch.linalg.svd(noise(*shape), full_matrices=False)
    spectrum = torch.arange(1, min(shape) + 1).pow(-0.7)
    change = left * spectrum @ right
    exact = np.linalg.svd(change.double().numpy(), compute_uv=False)
    found = decompose(change, 8, "key")
    np.testing.assert_allclose(found.values.numpy(), exact[:8], rtol=1e-2)
    missed = float((change - product(found)).square().sum())
    assert missed <= 1.001 * float((exact[8:] ** 2).sum())
    assert found.down.norm(dim=1) == pytest.approx(found.up.norm(dim=1).numpy(), rel=1e-4)


def test_a_low_rank_change_is_exact_and_repeatable() -> None:
    change = noise(200, 5) @ noise(5, 150, seed=1)
    found = decompose(change, 8, "key")
    torch.testing.assert_close(product(found), change, rtol=1e-4, atol=1e-4)
    again, other = decompose(change, 8, "key"), decompose(change, 8, "other key")
    assert found.down.equal(again.down)
    assert not found.down.equal(other.down)
    torch.testing.assert_close(product(found.first(5)), change, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [3, 40])
def test_a_product_is_decomposed_exactly(rank: int) -> None:
    up, down = noise(50, rank), noise(rank, 30, seed=1)
    exact = np.linalg.svd((up.double() @ down.double()).numpy(), compute_uv=False)
    found = decompose_product(up, down)
    np.testing.assert_allclose(found.values.numpy(), exact[: len(found.values)], rtol=1e-4,
                               atol=1e-4)  # fmt: skip
    torch.testing.assert_close(product(found), up @ down, rtol=1e-4, atol=1e-4)


def stored(folder: Path, name: str, tensor: torch.Tensor) -> TensorRef:
    save_file({"w": tensor}, folder / name)
    return open_safetensors(folder / name).tensors["w"]


def test_a_change_by_hand(tmp_path: Path) -> None:
    before = torch.full((4, 9), 1.25, dtype=torch.bfloat16)
    after = before.clone()
    after[0] = 1.5  # 9 of 36 moved by 0.25
    after[1:, :2] = 3.0  # 6 by 1.75, where values are twice as far apart
    into = torch.empty(4, 9)
    found = measure_change("w", stored(tmp_path, "a", before), stored(tmp_path, "b", after), into)
    assert found.energy == pytest.approx(9 * 0.0625 + 6 * 3.0625)
    assert found.weight_energy == pytest.approx(36 * 1.5625)
    assert found.unchanged == pytest.approx(21 / 36)
    rounding = (30 * 2.0**-14 + 6 * 2.0**-12) / 36 / 12  # ulp of bf16: 2^-7 from 1 to 2
    assert found.rounding == pytest.approx(rounding)
    assert found.noise_edge == pytest.approx(math.sqrt(rounding) * (2 + 3))
    assert found.noise_share == pytest.approx(36 * rounding / found.energy)
    assert into.equal(after.float() - before.float())


def test_blocks_of_other_sizes_meet(tmp_path: Path) -> None:
    before = noise(1500, 1024)  # fp32 comes in blocks of half as many rows as bf16
    after = (before + 0.01 * noise(1500, 1024, seed=1)).bfloat16()
    into = torch.empty(1500, 1024)
    found = measure_change("w", stored(tmp_path, "a", before), stored(tmp_path, "b", after), into)
    assert into.equal(after.float() - before)
    exact = float((after.float() - before).double().square().sum())
    assert found.energy == pytest.approx(exact, rel=1e-4)
    back = measure_change("w", stored(tmp_path, "c", after), stored(tmp_path, "d", before), into)
    assert back.energy == pytest.approx(found.energy, rel=1e-4)
    assert back.rounding == pytest.approx(found.rounding, rel=2e-2)


def test_the_base_s_own_tensor_isn_t_read(tmp_path: Path) -> None:
    ref = stored(tmp_path, "a", torch.ones(2, 2))
    ref.path.unlink()
    found = measure_change("w", ref, ref, torch.ones(2, 2))
    assert (found.energy, found.unchanged) == (0, 1)
