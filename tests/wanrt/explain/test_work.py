"""What kernels do: flops worked out by hand, parts by layer, the least time on a device."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from plantexts import FULL, HEADER, SEPARATE, TENSORS, function, gemm, write_plan

from wanrt.errors import EngineError
from wanrt.explain.difference import compare_kernels
from wanrt.explain.plan import read_kernels
from wanrt.explain.work import Sums, Work, bound_seconds, examine, sum_by_part
from wanrt.machine.devices import load_devices

GEMM = 2 * 6 * 16 * 16
ATTENTION = 2 * 2 * 2 * 6 * 6 * 8
FACTS = {
    "stem.condition_embedder.time_proj": ("embedding", GEMM),
    "CastMul": ("elementwise", 0),
    "blocks.0.attn1.to_q": ("self_attention_linear", GEMM),
    "blocks.0.attn1.attention": ("self_attention", ATTENTION),
    "blocks.0.ffn.net.2": ("ffn", GEMM),
    "head.proj_out": ("head", GEMM),
}


def work_of(tmp_path: Path, kernels: tuple[str, ...]) -> tuple[Work, ...]:
    return examine(read_kernels(write_plan(tmp_path / "engine.plan", TENSORS, kernels)))


def test_a_kernel_is_its_layer_s(tmp_path: Path) -> None:
    work = work_of(tmp_path, FULL)
    assert {one.label: (one.part, one.flops) for one in work} == FACTS
    assert [one.dtype for one in work] == ["bf16", None, "bf16", "bf16", "bf16", "bf16"]
    assert sum_by_part(work)["self_attention"] == Sums(4 * 2 * 6 * 8 * 2, ATTENTION)


def test_an_adapter_s_own_kernels_are_told_apart(tmp_path: Path) -> None:
    ours, theirs = work_of(tmp_path, SEPARATE), work_of(tmp_path, FULL)
    moved = 2 * (6 * 16 + 16 * 4 + 6 * 4)
    assert sum_by_part(ours)["lora"] == Sums(moved, 2 * 6 * 16 * 4)
    (change,) = compare_kernels(ours, theirs)
    assert [one.label for one in change.ours] == ["blocks.0.attn2.to_q.lora_A"]
    assert change.theirs == ()
    assert compare_kernels(ours, ours) == ()


def test_each_kernel_takes_the_longer_of_computing_and_moving(tmp_path: Path) -> None:
    device = load_devices()["RTX 5090"].model_copy(
        update={"tflops": {"bf16": 1e-9}, "bandwidth_gb_s": 1e-6}  # 1,000 flop/s and B/s
    )
    seconds = bound_seconds(work_of(tmp_path, FULL), device)
    bytes_of_gemm = 2 * (6 * 16 + 16 * 16 + 6 * 16)
    assert seconds[0] == pytest.approx(max(GEMM, bytes_of_gemm) / 1000)
    assert seconds[1] == pytest.approx(2 * 2 * 6 * 16 / 1000)  # read and written, nothing computed
    assert seconds[3] == pytest.approx(ATTENTION / 1000)


def test_a_device_without_the_precision_is_refused(tmp_path: Path) -> None:
    work = work_of(tmp_path, (gemm("blocks.0.ffn.net.2", "x32", "w32", "x32"),))
    device = load_devices()["H100"].model_copy(update={"tflops": {"bf16": 1.0}})
    with pytest.raises(EngineError, match=r"H100 has no rate in fp32, which blocks\.0\.ffn"):
        bound_seconds(work, device)


@pytest.mark.parametrize(
    "kernel",
    [
        gemm("blocks.0.ffn.net.2", "x", "a", "y"),
        function("_gemm_mha_v2", ["blocks.0.attn1.attention"], ["q", "k"], "z"),
        function("_gemm_mha_v2", ["blocks.0.attn1.attention"], ["x", "w", "y"], "z"),
    ],
)
def test_operands_that_do_not_fit_together_are_refused(tmp_path: Path, kernel: str) -> None:
    with pytest.raises(EngineError, match="isn't known"):
        work_of(tmp_path, (kernel,))


@given(at=st.integers(0, 1 << 12), new=st.binary(max_size=4))
def test_damage_is_examined_or_refused(
    tmp_path_factory: pytest.TempPathFactory, at: int, new: bytes
) -> None:
    path = write_plan(tmp_path_factory.mktemp("plan") / "engine.plan", TENSORS, SEPARATE)
    data = path.read_bytes()
    at = len(HEADER) + at % (len(data) - len(HEADER))
    path.write_bytes(data[:at] + new + data[at + len(new) :])
    with contextlib.suppress(EngineError):
        for one in examine(read_kernels(path)):
            assert one.flops >= 0
            assert one.label


@pytest.mark.parametrize("shape", [(16, 0), (0, 16)])
def test_an_empty_weight_is_refused_or_free(tmp_path: Path, shape: tuple[int, int]) -> None:
    tensors = (("x", "bf16", (6, shape[0])), ("w", "bf16", shape), ("y", "bf16", (6, shape[1])))
    kernels = (gemm("blocks.0.ffn.net.2", "x", "w", "y"),)
    path = write_plan(tmp_path / "engine.plan", tensors, kernels)
    if shape[1]:
        assert examine(read_kernels(path))[0].flops == 0
    else:
        with pytest.raises(EngineError, match="isn't known"):
            examine(read_kernels(path))


def test_a_concatenation_that_is_listed_twice_counts_once(tmp_path: Path) -> None:
    kernels = (
        'concat={ name="c" output={"y" } input={"x" "n" } stream=0 layers="" }',
        function("__myl_Conc", ["blocks.0.attn2.to_q.joined"], ["x", "n"], "y"),
    )
    work = work_of(tmp_path, kernels)
    assert [(one.kernel.name, one.adapter) for one in work] == [("__myl_Conc", True)]


def test_a_kind_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="lists a 'shuffle'"):
        work_of(tmp_path, (*FULL, "shuffle={ name=x }"))
