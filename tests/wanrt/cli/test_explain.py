"""`wanrt explain`: tables of a plan's kernels, parts and devices; what it can't read is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from commands import wanrt
from plantexts import FULL, SEPARATE, TENSORS, write_plan
from tinyengines import read_raw, write_manifest
from trtengines import Trt, make_trt


@pytest.fixture
def engines(tmp_path: Path) -> tuple[Path, Path]:
    return make(tmp_path / "full", FULL), make(tmp_path / "separate", SEPARATE)


def make(folder: Path, kernels: tuple[str, ...]) -> Path:
    """Write a TensorRT-RTX engine whose plan lists these kernels."""
    make_trt(folder, Trt(backend="tensorrt-rtx", dtype="bf16"))
    raw = read_raw(folder)
    plan = raw["graphs"]["forward"]["plan"]
    write_plan(folder / plan["file"], TENSORS, kernels)
    plan["bytes"] = (folder / plan["file"]).stat().st_size
    write_manifest(folder, raw)
    return folder


def test_an_engine_without_a_readable_plan_is_refused(family: Path) -> None:
    code, out, err = wanrt("explain", family / "tiny-full")
    assert (code, out) == (1, "")
    assert "its kernels can't be read: it is an engine of onnxruntime" in err
    assert "hint: the kernels of TensorRT-RTX engines can be read" in err


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


def test_an_unknown_device_is_refused(engines: tuple[Path, Path]) -> None:
    code, _, err = wanrt("explain", engines[0], "--device", "h1000")
    assert code == 1
    assert "there is no device" in err
