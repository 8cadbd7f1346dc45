"""A whole pipeline on the demo's engine against the same on torch eager and torch.compile.

    python benchmarks/pipeline.py [--threads 2] [--rounds 5] [--steps 4]

The same weights, noise, sizes and threads, interleaved in one process in random order; encoders and
VAE are tiny and random, and count in no step. Beside it, the time that the drop-in itself takes
outside of `engine.forward`, measured in every call. Writes `benchmarks/results/pipeline.{json,md}`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import platform
import random
import statistics
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/support"))
from tinypipelines import make_image, make_pipeline, relative

from wanexport.build.recipe import build_engines
from wanexport.build.request import BuildRequest
from wanexport.model.config import load_config
from wanexport.pipelines import EngineTransformer
from wanrt.terminal.progress import Reporter

RESULTS = Path(__file__).parent / "results"
OWN = "engine"


class Watch:
    """Seconds of `engine.forward`, and of the drop-in's whole calls, one after the other."""

    def __init__(self, transformer: EngineTransformer) -> None:
        self.inner: list[float] = []
        self.whole: list[float] = []
        engine: Any = transformer.engine
        engine.forward = self._timed(engine.forward, self.inner)
        patched: Any = transformer
        patched.forward = self._timed(transformer.forward, self.whole)

    @staticmethod
    def _timed(run: Any, seconds: list[float]) -> Any:
        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = run(*args, **kwargs)
            seconds.append(time.perf_counter() - start)
            return result

        return timed


def main() -> None:
    parser = argparse.ArgumentParser(description="Time pipelines on an engine and on torch.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=4)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    config = load_config("wan2.1-i2v-demo")
    with tempfile.TemporaryDirectory() as folder:
        request = BuildRequest(config=config, modes=("full",), out=Path(folder), verify=False)
        (built,) = build_engines(request, Reporter())
        (made,) = (Path(folder) / ".made").glob("*/config.json")
        model = WanTransformer3DModel.from_pretrained(made.parent).eval()
        own = EngineTransformer(built.path, threads=arguments.threads)
        watch = Watch(own)
        transformers = {"torch eager": model, "torch.compile": torch.compile(model), OWN: own}
        pipes = {n: make_pipeline(t, config.architecture) for n, t in transformers.items()}
        steps, latents = _interleave(pipes, config.size, arguments)
        own.close()
    outside = [whole - inner for whole, inner in zip(watch.whole, watch.inner, strict=True)]
    result = {
        "size": config.size.name,
        "tokens": config.size.tokens,
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "steps": arguments.steps,
        "random_weights": True,
        "versions": {p: metadata.version(p) for p in ("torch", "diffusers", "onnxruntime")},
        "python": platform.python_version(),
        "cpu": _cpu(),
        "step_s": steps,
        "outside_s": outside[2 * (arguments.steps + 1) :],  # the first run warms up
        "to_eager": {n: relative(x, latents["torch eager"]) for n, x in latents.items()},
    }
    (RESULTS / "pipeline.json").write_text(json.dumps(result, indent=1) + "\n")
    text = _render(result)
    (RESULTS / "pipeline.md").write_text(text)
    print(text)


def _interleave(
    pipes: dict[str, Any], size: Any, arguments: argparse.Namespace
) -> tuple[dict[str, list[list[float]]], dict[str, torch.Tensor]]:
    """Return seconds of each step by pipeline and round, and each pipeline's latents."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in pipes}
    latents = {}
    for name, pipe in pipes.items():
        latents[name], _ = _run(pipe, size, arguments.steps)
    for _ in range(arguments.rounds):
        for name in random.sample(list(pipes), len(pipes)):
            seconds[name].append(_run(pipes[name], size, arguments.steps)[1])
    return seconds, latents


def _run(pipe: Any, size: Any, steps: int) -> tuple[torch.Tensor, list[float]]:
    ends: list[float] = []

    def ended(*given: Any) -> dict[str, Any]:
        ends.append(time.perf_counter())
        return dict(given[3])

    result = pipe(
        prompt="a cat runs",
        negative_prompt="blurred",
        image=make_image(width=size.width, height=size.height),
        width=size.width,
        height=size.height,
        num_frames=size.frames,
        num_inference_steps=steps + 1,  # the first step's start isn't seen
        guidance_scale=4.0,
        generator=torch.Generator().manual_seed(7),
        output_type="latent",
        callback_on_step_end=ended,
    )
    return result.frames, [b - a for a, b in itertools.pairwise(ends)]


def _render(result: dict[str, Any]) -> str:
    steps: dict[str, list[list[float]]] = result["step_s"]
    base = [statistics.median(one) for one in steps[OWN]]
    share = statistics.median(result["outside_s"]) * 2 / statistics.median(base)
    worst = max(result["outside_s"]) * 1e3
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines = [
        f"# Whole pipelines on a CPU: the demo, {result['size']}, {result['tokens']} tokens, fp32",
        "",
        f"`python benchmarks/pipeline.py`: {result['cpu']}, {result['threads']} threads, Python "
        f"{result['python']}, {versions}; random weights; {result['rounds']} interleaved rounds of "
        f"{result['steps']} steps with guidance (two forwards each), UniPC.",
        "",
        "| transformer | step (median) | time to the engine's (quartiles) | latents to eager |",
        "|---|--:|--:|--:|",
    ]
    for name, rounds in steps.items():
        medians = [statistics.median(one) for one in rounds]
        ratios = [value / other for value, other in zip(medians, base, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        lines.append(
            f"| {name} (R) | {statistics.median(medians) * 1e3:.0f} ms | {middle:.3f} "
            f"({low:.3f} to {high:.3f}) | {result['to_eager'][name]:.1e} |"
        )
    lines += [
        "",
        "R: random weights. The drop-in outside of `engine.forward`: median "
        f"{statistics.median(result['outside_s']) * 1e3:.2f} ms a call, worst {worst:.2f} ms: "
        f"{share:.2%} of a step.",
    ]
    return "\n".join(lines) + "\n"


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line for line in lines if "model name" in line).split(": ")[1]


if __name__ == "__main__":
    main()
