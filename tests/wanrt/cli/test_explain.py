"""`wanrt explain`: tables of kernels, parts, devices and times; what it can't read is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import wanrt
from inspected import account, linear
from plantexts import FULL, SEPARATE, TENSORS, exchange, write_plan
from tinyengines import Tiny, make_engine, read_raw, write_manifest
from trtengines import Trt, make_trt


@pytest.fixture
def engines(tmp_path: Path) -> tuple[Path, Path]:
    return make(tmp_path / "full", FULL), make(tmp_path / "separate", SEPARATE)


def make(folder: Path, kernels: tuple[str, ...], cards: int = 1) -> Path:
    """Write a TensorRT-RTX engine whose plan lists these kernels."""
    make_trt(folder, Trt(backend="tensorrt-rtx", dtype="bf16"))
    raw = read_raw(folder) | {"cards": cards}
    plan = raw["graphs"]["forward"]["plan"]
    write_plan(folder / plan["file"], TENSORS, kernels)
    plan["bytes"] = (folder / plan["file"]).stat().st_size
    write_manifest(folder, raw)
    return folder


def test_an_engine_without_a_readable_plan_is_refused(tmp_path: Path) -> None:
    make_trt(tmp_path / "trt", Trt(backend="tensorrt"))
    code, out, err = wanrt("explain", tmp_path / "trt")
    assert (code, out) == (1, "")
    assert "its kernels can't be read: TensorRT's plans don't list them" in err
    assert "hint: build it again: a build on a GPU keeps TensorRT's own account" in err


def test_tensorrts_own_account_is_read(tmp_path: Path) -> None:
    folder = tmp_path / "trt"
    make_trt(folder, Trt(backend="tensorrt"))
    raw = read_raw(folder)
    (folder / "layers.json").write_text(account(linear()))
    size = (folder / "layers.json").stat().st_size
    layers = {"file": "layers.json", "bytes": size, "sha256": "0" * 64}
    raw["graphs"]["forward"]["plan"]["layers"] = layers
    write_manifest(folder, raw)
    code, out, err = wanrt("explain", folder, "--device", "h100")
    assert (code, err) == (0, "")
    assert "  blocks.0.attn1.to_q " in out
    assert out.rstrip().splitlines()[-1].startswith("  H100")


class TestMeasured:
    """An ONNX Runtime engine's operators, as its profile of one forward has them."""

    def test_the_tables_say_what_was_measured(self, family: Path) -> None:
        code, out, err = wanrt("explain", family / "tiny-separate-r4")
        assert (code, err) == (0, "")
        assert out.splitlines()[0].split() == ["operator", "type", "moved", "flops", "measured"]
        gemms = [line.split() for line in out.splitlines() if " Gemm " in line]
        assert sorted(row[-4] for row in gemms) == ["3.072", "768.0", "768.0"]  # W; A; B
        assert "the least" in out
        assert "measured: one forward on this CPU" in out
        assert "compiled bound" not in out
        assert all(len(line) <= 79 for line in out.splitlines())
        assert "      reads  fp32 [6, 16]" in wanrt("explain", family / "tiny-full", "-v").out

    def test_only_what_differs(self, family: Path) -> None:
        out = wanrt("explain", family / "tiny-separate-r4", "--against", family / "tiny-full").out
        changes = [line.split()[:1] for line in out.splitlines() if line.startswith("  + ")]
        assert len(changes) == 2
        assert "of the other" in out
        assert "in speed is for wanrt bench to say" in " ".join(out.split())
        assert all(len(line) <= 79 for line in out.splitlines())

    def test_the_json_has_times_and_no_bounds(self, family: Path) -> None:
        value = json.loads(wanrt("explain", family / "tiny-full", "--json").out)
        assert value["compiled_bound_s"] == {}
        assert value["flops"] == 2 * 6 * 16 * 16
        times = [one["measured_s"] for one in value["kernels"]]
        assert sum(times) <= value["forward_s"]
        assert {one["kind"] for one in value["kernels"]} >= {"Gemm", "Add"}

    def test_a_bound_is_refused(self, family: Path) -> None:
        code, out, err = wanrt("explain", family / "tiny-full", "--device", "H100")
        assert (code, out) == (1, "")
        assert "has no compiled bound: its operators' times are measured" in err

    def test_measured_and_compiled_are_never_compared(
        self, family: Path, engines: tuple[Path, Path]
    ) -> None:
        code, out, err = wanrt("explain", family / "tiny-full", "--against", engines[0])
        assert (code, out) == (1, "")
        assert "can't be compared" in err

    def test_bf16_is_refused_with_its_reason(self, tmp_path: Path) -> None:
        make_engine(tmp_path / "bf16", Tiny(dtype="bf16"))
        code, out, err = wanrt("explain", tmp_path / "bf16")
        assert (code, out) == (1, "")
        assert "bf16 doesn't run on ONNX Runtime's CPU" in err


def test_the_tables(engines: tuple[Path, Path]) -> None:
    full, _ = engines
    code, out, err = wanrt("explain", full, "--device", "rtx5090")
    assert (code, err) == (0, "")
    assert "  blocks.0.attn1.attention           768.0 B  2.304 kFLOP       1" in out
    assert "self-attention, linear" in out
    assert "6 kernels" in out
    assert out.rstrip().splitlines()[-1].startswith("  RTX 5090")
    assert all(len(line) <= 79 for line in out.splitlines())
    assert "      reads  bf16 [16, 16]" in wanrt("explain", full, "--verbose").out


def test_only_what_differs(engines: tuple[Path, Path]) -> None:
    full, separate = engines
    out = wanrt("explain", separate, "--against", full).out
    changes = [line for line in out.splitlines() if line.startswith(("  + ", "  - "))]
    assert len(changes) == 1
    assert changes[0].startswith("  + blocks.0.attn2.to_q.lora_A")
    assert "LoRA alone" in out
    assert wanrt("explain", full, "--against", full).out.startswith("the same kernels\n")


def test_the_json_says_all_of_it(engines: tuple[Path, Path]) -> None:
    full, separate = engines
    value = json.loads(wanrt("explain", separate, "--against", full, "--json").out)
    assert value["parts"]["lora"]["flops"] == 2 * 6 * 16 * 4
    assert value["against"]["bytes"] < value["bytes"]
    assert value["differences"] == [{"ours": ["blocks.0.attn2.to_q.lora_A"], "theirs": []}]
    (kernel,) = (one for one in value["kernels"] if one["adapter"])
    assert kernel["inputs"][1] == {"name": "a", "dtype": "bf16", "shape": [16, 4]}
    assert set(value["compiled_bound_s"]) >= {"H100", "RTX 5090"}


def test_what_cards_exchange_counts_apart(engines: tuple[Path, Path], tmp_path: Path) -> None:
    full, _ = engines
    exchanges = (
        exchange("comm_alltoall", "blocks.0.attn1.attention.q.2", "x", "y"),
        exchange("comm_allgather", "head.cards.1", "x", "y"),
    )
    cut = make(tmp_path / "cut", (*FULL, *exchanges), cards=4)
    out = wanrt("explain", cut).out
    (line,) = (line for line in out.splitlines() if "attention.q.2" in line)
    assert line.split()[1:] == ["exchanged", "0"]
    # 6 x 16 values of bf16 twice; three quarters of them come from other cards
    assert "2 exchanges among 4 cards: each card sends 288.0 B" in out
    assert "the least" not in out  # which is counted for all tokens
    value, alone = (json.loads(wanrt("explain", e, "--json").out) for e in (cut, full))
    assert (value["cards"], value["exchanges"], value["received_bytes"]) == (4, 2, 288)
    assert (alone["cards"], alone["exchanges"], alone["received_bytes"]) == (1, 0, 0)
    assert value["bytes"] == alone["bytes"]


def test_an_unknown_device_is_refused(engines: tuple[Path, Path]) -> None:
    code, _, err = wanrt("explain", engines[0], "--device", "h1000")
    assert code == 1
    assert "there is no device" in err
