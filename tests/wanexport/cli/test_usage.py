"""What the wanexport command refuses as wrong usage, before anything is read."""

from __future__ import annotations

import pytest
from commands import wanexport

from wanexport.build.request import BuildRequest

USAGE: dict[str, str] = {
    "no such command": "compile",
    "no such flag": "build --rank 4 --quantise int8",
    "a scheme": "build --rank 4 --quantize int4",
    "a scheme without value": "build --rank 4 --quantize",
    "a misspelt flag": "build --ranks 4",
    "rank 0": "build --rank 0",
    "a negative rank": "build --rank -4",
    "rank as text": "build --rank high",
    "rank as a fraction": "build --rank 4.5",
    "rank without value": "build --rank",
    "mode": "build --rank 4 --mode fused",
    "mode without value": "build --rank 4 --mode",
    "dtype": "build --rank 4 --dtype int8",
    "backend": "build --rank 4 --backend tflite",
    "weights": "build --rank 4 --weights symlink",
    "verify": "build --rank 4 --verify maybe",
    "max rank 0": "build --rank 4 --max-rank 0",
    "width as text": "build --rank 4 --width wide",
    "no adapter": "build --mode merged",
    "no rank to price": "estimate --mode full --mode separate",
    "a stray argument": "build 32",
    "estimate for rank 0": "estimate --rank 0",
    "estimate for a device without name": "estimate --device",
    "a stray argument of estimate": "estimate H100",
    "inspect nothing": "inspect",
    "inspect two": "inspect a b",
    "adapter without engine": "adapter a -o b",
    "adapter without output": "adapter a --for e",
    "adapter without file": "adapter --for e -o b",
}


@pytest.mark.parametrize("case", USAGE)
def test_wrong_usage_exits_with_2(case: str, asked: list[BuildRequest]) -> None:
    code, out, err = wanexport(*USAGE[case].split())
    assert code == 2
    assert not out
    assert "Traceback" not in err
    assert not asked


UNUSED: dict[str, tuple[str, str, str]] = {
    "rank, full": ("build --mode full --rank 4", "--rank", "--mode merged or --mode separate or"),
    "rank of an estimate, full": ("estimate --mode full --rank 4", "--rank", "--mode merged or"),
    "LoRA, full": ("build --mode full --lora l", "--lora", "--mode merged or"),
    "max rank, full": ("build --mode full --max-rank 8", "--max-rank", "--mode swappable"),
    "max rank, merged": (
        "build --mode merged --rank 4 --max-rank 8", "--max-rank", "--mode swappable",
    ),
    "max rank, merged for good by TensorRT": (
        "build --mode merged --rank 4 --max-rank 8 --backend tensorrt --refit none", "--max-rank",
        "--mode swappable",
    ),
    "finetuned, no full": ("build --mode merged --rank 4 --finetuned f", "--finetuned", "full"),
    "merge rest, made adapters": ("build --rank 4 --merge-rest", "--merge-rest", "--lora FILE"),
    "merge rest, merged": (
        "build --mode merged --lora l --merge-rest", "--merge-rest", "--mode separate or",
    ),
    "refit, no TensorRT": ("build --rank 4 --refit all", "--refit", "--backend tensorrt"),
    "bake, no TensorRT": ("build --rank 4 --bake", "--bake", "--backend tensorrt"),
    "capability, no TensorRT": (
        "build --rank 4 --compute-capability 89", "--compute-capability", "--backend tensorrt",
    ),
    "no control, not timed": (
        "build --rank 4 --backend tensorrt-rtx --no-build-control", "--no-build-control", "drop it",
    ),
    "no control, no full": (
        "build --mode merged --rank 4 --backend tensorrt --no-build-control", "--no-build-control",
        "--mode full",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", UNUSED)
def test_a_flag_without_effect_is_wrong_usage(case: str, asked: list[BuildRequest]) -> None:
    argv, flag, needs = UNUSED[case]
    code, out, err = wanexport(*argv.split())
    assert (code, out, asked) == (2, "", [])
    error, hint = err.splitlines()[-2:]
    assert error.startswith(f"error: {flag} ")
    assert hint.startswith("hint: ")
    assert needs in hint
