"""What extracting LoRAs out of a fine-tune, and resizing one, takes on a CPU.

    python benchmarks/extract.py [--matrices 24]

Decomposes matrices as large as I2V-14B's (5120 x 5120, a change of 2 % of the weight's norm whose
singular values fall off slowly, rounded to bf16), as `wanexport extract` does, for ranks up to 256;
one of them exactly, and by torch.svd_lowrank. Then resizes a random LoRA of rank 128 on all linear
layers of I2V-14B's blocks to rank 32 with `wanexport resize`. Writes
benchmarks/results/extract.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib import metadata
from pathlib import Path
from subprocess import run
from typing import Any, TypeVar

import torch
from torch import Tensor

from wanexport.extraction.decompose import decompose
from wanexport.lora.random_adapter import seeded_adapter
from wanexport.lora.targets import select_modules
from wanexport.model.config import load_config
from wanexport.model.names import module_shapes
from wanrt.machine.cores import usable_cores

RESULTS = Path(__file__).parent / "results"
WIDTH, RANK, MODULES = 5120, 256, 240  # I2V-14B's cross-attention has 240 such matrices
SHOWN = (32, 128, 256)
CONFIG = "wan2.1-i2v-14b-480p"
T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the extraction and resizing of LoRAs.")
    parser.add_argument("--matrices", type=int, default=24)
    matrices = parser.parse_args().matrices
    seconds, first = [], None
    for seed in range(matrices):
        change = draw(seed)
        took, factors = timed(partial(decompose, change, RANK, f"{seed}"))
        seconds.append(took)
        first = first or capture(change, factors.values)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    change = draw(0)
    rough, low = timed(lambda: torch.svd_lowrank(change, q=RANK, niter=2))
    exact, values = timed(lambda: torch.linalg.svd(change, full_matrices=False)[1])
    found = {
        "matrices": matrices,
        "seconds": seconds,
        "peak_bytes": peak,
        "captured": first,
        "svd_lowrank_s": rough,
        "svd_lowrank_captured": capture(change, low[1]),
        "exact_s": exact,
        "exact_captured": capture(change, values),
        "resize": resize(),
        "cores": usable_cores(),
        "load": os.getloadavg()[0],
        "versions": {"python": platform.python_version(), "torch": metadata.version("torch")},
    }
    (RESULTS / "extract.json").write_text(json.dumps(found, indent=1) + "\n")
    text = tabulate(found)
    (RESULTS / "extract.md").write_text(text)
    print(text)


def draw(seed: int) -> Tensor:
    """Return the change of a weight in bf16: 2 % of its norm, singular values like i^-1/2."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(WIDTH, WIDTH, generator=generator) / WIDTH**0.5
    values = torch.arange(1, 513).rsqrt()
    up, down = (torch.randn(512, WIDTH, generator=generator) for _ in "ab")
    change = up.T @ (values[:, None] * down)
    change *= 0.02 * weight.norm() / change.norm()
    before = weight.bfloat16()
    moved: Tensor = (weight + change).bfloat16().float() - before.float()
    return moved


def capture(change: Tensor, values: Tensor) -> dict[str, float]:
    """Return the share of a change's energy that the leading singular values hold, by rank."""
    energy = change.double().square().sum()
    squares = values.double().square()
    return {str(rank): float(squares[:rank].sum() / energy) for rank in SHOWN}


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """Return the seconds that something takes, and what it returns."""
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def resize() -> dict[str, float]:
    """Resize a LoRA of I2V-14B by the command; return its seconds, in all and of an empty start."""
    arch = load_config(CONFIG).architecture
    with tempfile.TemporaryDirectory() as folder:
        path, out = Path(folder, "lora.safetensors"), Path(folder, "small.safetensors")
        modules = select_modules(arch, "all")
        seeded_adapter(path, module_shapes(arch), modules, 128, 0)
        command = [sys.executable, "-m", "wanexport", "resize", str(path), "--rank", "32",
                   "--config", CONFIG, "-o", str(out), "--quiet"]  # fmt: skip
        start = time.perf_counter()
        run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        return {"modules": len(modules), "bytes": path.stat().st_size, "seconds": seconds,
                "peak_bytes": peak}  # fmt: skip


def tabulate(found: dict[str, Any]) -> str:
    """Return the results as a page."""
    seconds, resized = found["seconds"], found["resize"]
    each = sum(seconds) / len(seconds)

    def row(name: str, took: float, captured: dict[str, float]) -> str:
        shares = " | ".join(f"{captured[str(rank)]:.5f}" for rank in SHOWN)
        return f"| {name} | {took:.2f} | {shares} | {took * MODULES / 60:.1f} min |"

    lines = [
        "# Extracting and resizing LoRAs",
        "",
        f"`python benchmarks/extract.py`: {found['cores']} cores, load average {found['load']:.1f} "
        f"at the end, Python {found['versions']['python']}, torch {found['versions']['torch']}.",
        f"Changes of {WIDTH} x {WIDTH} weights in bf16, random, the mean of {len(seconds)} for "
        "extract and one for the others; the last",
        f"column is that times {MODULES}, as I2V-14B's cross-attention has, without reading. Peak",
        f"of the process, with making the matrices: {found['peak_bytes'] / 2**30:.2f} GiB.",
        "",
        "| method | s | r32 | r128 | r256 | 240 matrices |",
        "|---|--:|--:|--:|--:|--:|",
        row("wanexport extract, ranks up to 256", each, found["captured"]),
        row("torch.svd_lowrank(q=256, niter=2)", found["svd_lowrank_s"],
            found["svd_lowrank_captured"]),
        row("exact SVD", found["exact_s"], found["exact_captured"]),
        "",
        f"`wanexport resize` of a random rank-128 LoRA on {resized['modules']} layers "
        f"({resized['bytes'] / 1e9:.2f} GB) to rank 32, start of Python",
        f"included: {resized['seconds']:.1f} s, {resized['peak_bytes'] / 2**30:.2f} GiB.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
