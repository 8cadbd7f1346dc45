"""The demo's `full` engine on ONNX Runtime's CPU against torch eager and torch.compile.

    python benchmarks/cpu_engine.py [--threads 2] [--rounds 20]

The same weights, sizes and threads, interleaved in one process in random order; the first forward
of each visit is discarded. Also times swaps of a rank-32 adapter on the swappable engine. Writes
`benchmarks/results/cpu_engine.md`.
"""

from __future__ import annotations

import argparse
import platform
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import numpy as np
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file

from wanexport.build.recipe import build_engines
from wanexport.build.request import BuildRequest
from wanexport.model.config import load_config
from wanrt.backends.load import load_engine
from wanrt.engine.inputs import make_inputs
from wanrt.terminal.progress import Reporter

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the CPU engine against torch.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = load_config("wan2.1-i2v-demo")
    with tempfile.TemporaryDirectory() as folder:
        request = BuildRequest(
            config=config, modes=("full", "swappable"), ranks=(32,), out=Path(folder)
        )
        full, swappable = build_engines(request, Reporter())
        with load_engine(full.path, threads=arguments.threads) as engine:
            (workload,) = engine.manifest.workloads.values()
            inputs = make_inputs(engine.manifest, workload, seed=0)
            engine.bind(**inputs)
            forwards = _torch_forwards(Path(folder), inputs) | {"engine": engine.time_forward}
            seconds = _interleave(forwards, arguments.rounds)
        swaps = _time_swaps(swappable.path)
    _report(arguments, config.size.name, config.size.tokens, seconds, swaps)


def _torch_forwards(folder: Path, inputs: dict[str, np.ndarray]) -> dict[str, Callable[[], float]]:
    (made,) = (folder / ".made").glob("*/config.json")
    model = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(made.parent))
    for shard in made.parent.glob("*.safetensors"):
        model.load_state_dict(load_file(shard))
    model.eval()
    feeds = {name: torch.from_numpy(np.array(value)) for name, value in inputs.items()}

    def timed(run: Callable[..., object]) -> Callable[[], float]:
        def forward() -> float:
            with torch.inference_mode():
                start = time.perf_counter()
                run(**feeds, return_dict=False)
                return time.perf_counter() - start

        return forward

    return {"torch eager": timed(model), "torch.compile": timed(torch.compile(model))}


def _interleave(forwards: dict[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in forwards}
    for forward in forwards.values():
        forward()
    for _ in range(rounds):
        for name in random.sample(list(forwards), len(forwards)):
            forwards[name]()
            seconds[name].append(forwards[name]())
    return seconds


def _time_swaps(path: Path) -> list[float]:
    (adapter,) = (path / "adapters").glob("*.safetensors")
    swaps = []
    with load_engine(path) as engine:
        for _ in range(20):
            start = time.perf_counter()
            engine.swap(adapter)
            swaps.append(time.perf_counter() - start)
    return swaps


def _report(
    arguments: argparse.Namespace,
    size: str,
    tokens: int,
    seconds: dict[str, list[float]],
    swaps: list[float],
) -> None:
    cpu = next(x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x)
    versions = ", ".join(
        f"{p} {metadata.version(p)}" for p in ("torch", "diffusers", "onnxruntime")
    )
    lines = [
        f"# The demo on a CPU: {size}, {tokens} tokens, fp32, random weights",
        "",
        f"{cpu.split(': ')[1]}, {arguments.threads} threads, Python {platform.python_version()}, "
        f"{versions}; {arguments.rounds} interleaved rounds",
        "",
        "| candidate | forward (median) | time to the engine's, median of rounds (quartiles) |",
        "|---|--:|--:|",
    ]
    for name, values in seconds.items():
        ratios = [v / e for v, e in zip(values, seconds["engine"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(
            f"| {name} | {statistics.median(values) * 1e3:.0f} ms "
            f"| {middle:.3f} ({low:.3f} to {high:.3f}) |"
        )
    lines += ["", f"Swap of a rank-32 adapter: median {statistics.median(swaps) * 1e3:.1f} ms, "
              f"worst of {len(swaps)} {max(swaps) * 1e3:.1f} ms."]  # fmt: skip
    text = "\n".join(lines) + "\n"
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "cpu_engine.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
