"""What an adapter takes in all, worked out by hand: its kernels, and its columns of others."""

from __future__ import annotations

from pathlib import Path

from plantexts import FULL, SEPARATE, TENSORS, Tensor, function, gemm, sub_tensor, write_plan

from wanrt.explain.lora_share import sum_adapter
from wanrt.explain.plan import read_kernels
from wanrt.explain.work import Sums, Work, examine, sum_by_part

ROWS, WIDTH, RANK = 6, 16, 4
WIDE: tuple[Tensor, ...] = (
    *TENSORS,
    ("xt", "bf16", (ROWS, WIDTH + RANK)),
    ("wb", "bf16", (WIDTH + RANK, WIDTH)),
)
MODULE = "blocks.0.attn2.to_q"
DOWN = 2 * (ROWS * WIDTH + WIDTH * RANK + ROWS * RANK)
COLUMNS = 2 * (ROWS * RANK + RANK * WIDTH)
FLOPS = 2 * ROWS * RANK * (WIDTH + WIDTH)


def work_of(tmp_path: Path, *kernels: str) -> tuple[Work, ...]:
    return examine(read_kernels(write_plan(tmp_path / "engine.plan", WIDE, kernels)))


def test_a_product_that_is_shared_counts_by_its_columns(tmp_path: Path) -> None:
    work = work_of(
        tmp_path,
        sub_tensor("x_of", "xt", 0, (ROWS, WIDTH), "bf16"),
        sub_tensor("t_of", "xt", 2 * WIDTH, (ROWS, RANK), "bf16"),
        gemm(f"{MODULE}.lora_A", "x_of", "a", "t_of"),
        gemm(MODULE, "xt", "wb", "y"),
        gemm("blocks.0.ffn.net.2", "y", "w", "x"),
    )
    assert sum_by_part(work)["lora"] == Sums(DOWN, FLOPS // 2)
    assert sum_adapter(work) == Sums(DOWN + COLUMNS, FLOPS)


def test_a_copy_that_puts_t_beside_x_is_the_adapter_s(tmp_path: Path) -> None:
    work = work_of(
        tmp_path,
        gemm(f"{MODULE}.lora_A", "x", "a", "t"),
        function("__myl_ReshConc", ["blocks.0.attn1.to_q.Reshape"], ["x", "t"], "xt"),
        gemm(MODULE, "xt", "wb", "y"),
    )
    copied = 2 * (ROWS * WIDTH + ROWS * RANK + ROWS * (WIDTH + RANK))
    assert sum_adapter(work) == Sums(DOWN + copied + COLUMNS, FLOPS)


def test_an_adapter_of_its_own_kernels_alone_is_their_sum(tmp_path: Path) -> None:
    work = work_of(tmp_path, *SEPARATE)
    assert sum_adapter(work) == sum_by_part(work)["lora"]
    assert sum_adapter(work_of(tmp_path, *FULL)) == Sums()
