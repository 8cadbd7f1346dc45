"""Adapters side by side on the demo's swappable engine: what a swap and other strengths take.

    python benchmarks/stacks.py [--threads 2] [--rounds 30]

Times, in one process: swaps of two rank-32 adapters that were seen before; changes of their
strengths; and forwards with the two beside forwards with one adapter of rank 64, in loads of their
own, interleaved in random order, with a second load of the latter as the control. Writes
`benchmarks/results/stacks.md`.
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

from wanexport.build.recipe import build_engines
from wanexport.build.request import BuildRequest
from wanexport.model.config import load_config
from wanrt.backends.load import load_engine
from wanrt.engine.engine import Engine
from wanrt.engine.inputs import make_inputs
from wanrt.terminal.progress import Reporter

RESULTS = Path(__file__).parent / "results"
CALLS = 1000
SWAPS = 50


def main() -> None:
    parser = argparse.ArgumentParser(description="Time stacks of adapters on the demo.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=30)
    arguments = parser.parse_args()
    config = load_config("wan2.1-i2v-demo")
    with tempfile.TemporaryDirectory() as folder:
        request = BuildRequest(
            config=config, modes=("swappable",), ranks=(32, 64), out=Path(folder), verify=False
        )
        (built,) = build_engines(request, Reporter())
        small, large = (built.path / "adapters" / f"r{rank}.safetensors" for rank in (32, 64))
        stacks = {"two of rank 32": [(small, 0.9), (small, -0.3)], "one of rank 64": [(large, 1.0)]}
        stacks["one of rank 64, again"] = stacks["one of rank 64"]
        engines = {name: load_engine(built.path, threads=arguments.threads) for name in stacks}
        for name, engine in engines.items():
            engine.swap(stacks[name])
            (workload,) = engine.manifest.workloads.values()
            engine.bind(**make_inputs(engine.manifest, workload, seed=0))
        seconds = interleave(engines, arguments.rounds)
        first = engines["two of rank 32"]
        swaps = time_calls(lambda: first.swap(stacks["two of rank 32"]), SWAPS)
        changes = time_calls(lambda: first.set_strengths((random.random(), -0.3)), CALLS)
        for engine in engines.values():
            engine.close()
    report(arguments, seconds, swaps, changes)


def interleave(engines: dict[str, Engine], rounds: int) -> dict[str, list[float]]:
    seconds: dict[str, list[float]] = {name: [] for name in engines}
    for _ in range(rounds):
        for name in random.sample(list(engines), len(engines)):
            engines[name].time_forward()
            seconds[name].append(engines[name].time_forward())
    return seconds


def time_calls(call: Callable[[], None], count: int) -> list[float]:
    found = []
    for _ in range(count):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return found


def report(
    arguments: argparse.Namespace,
    seconds: dict[str, list[float]],
    swaps: list[float],
    changes: list[float],
) -> None:
    cpu = next(x for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x)
    lines = [
        "# Adapters side by side: the demo's swappable engine of rank 64, fp32, on a CPU",
        "",
        f"`python benchmarks/stacks.py`: {cpu.split(': ')[1]}, {arguments.threads} threads, Python "
        f"{platform.python_version()}, onnxruntime {metadata.version('onnxruntime')}; "
        f"{arguments.rounds} interleaved rounds, one load each.",
        "",
        "| loaded | forward (median) | time to one of rank 64, median of rounds (quartiles) |",
        "|---|--:|--:|",
    ]
    for name, values in seconds.items():
        base = seconds["one of rank 64"]
        ratios = [value / other for value, other in zip(values, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(
            f"| {name} | {statistics.median(values) * 1e3:.0f} ms "
            f"| {middle:.3f} ({low:.3f} to {high:.3f}) |"
        )
    swap = statistics.median(swaps)
    lines += [
        "",
        f"- swap of two adapters of rank 32, seen before: median {swap * 1e3:.2f} ms, "
        f"worst of {len(swaps)} {max(swaps) * 1e3:.2f} ms",
        f"- change of both strengths: median {statistics.median(changes) * 1e6:.1f} us, "
        f"worst of {len(changes)} {max(changes) * 1e6:.0f} us",
    ]
    text = "\n".join(lines) + "\n"
    (RESULTS / "stacks.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
