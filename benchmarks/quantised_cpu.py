"""The demo in int8 on ONNX Runtime's CPU against fp32: time, error, and the other integer form.

    python benchmarks/quantised_cpu.py [--threads 1] [--rounds 20]

Engines of the product, `full` and separate r32, each in fp32 and int8, and of `full` one more form:
static u8 activations with s8 weights as QGemm isn't built, since its scales need calibration on
real activations. Interleaved in one process in random order; medians. Writes
`benchmarks/results/quantised_cpu.{json,md}`.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from contextlib import ExitStack
from importlib import metadata
from pathlib import Path

from wanexport.build.recipe import build_engines
from wanexport.build.request import BuildRequest
from wanexport.model.config import load_config
from wanrt.backends.load import load_engine
from wanrt.engine.inputs import make_inputs
from wanrt.terminal.progress import Reporter

RESULTS = Path(__file__).parent / "results"
GOAL = 0.65


def main() -> None:
    parser = argparse.ArgumentParser(description="Time int8 engines against fp32 on a CPU.")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    config = load_config("wan2.1-i2v-demo")
    seconds: dict[str, list[float]] = {}
    errors: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        engines = {}
        for scheme in ("none", "int8"):
            request = BuildRequest(
                config=config, modes=("full", "separate"), ranks=(32,), quantize=scheme,
                out=Path(folder),
            )  # fmt: skip
            for built in build_engines(request, Reporter()):
                name = f"{built.target.mode} {'fp32' if scheme == 'none' else scheme}"
                engine = stack.enter_context(load_engine(built.path, threads=arguments.threads))
                (workload,) = engine.manifest.workloads.values()
                engine.bind(**make_inputs(engine.manifest, workload, seed=0))
                engines[name] = engine
                assert built.verification is not None
                errors[name] = built.verification.error
        for _ in range(arguments.rounds):
            for name in random.sample(list(engines), len(engines)):
                engines[name].time_forward()
                seconds.setdefault(name, []).append(engines[name].time_forward())
    _report(arguments, seconds, errors)


def _report(
    arguments: argparse.Namespace,
    seconds: dict[str, list[float]],
    errors: dict[str, float | None],
) -> None:
    rows = [
        {
            "engine": name,
            "median_s": statistics.median(times),
            "to_fp32": statistics.median(times)
            / statistics.median(seconds[f"{name.split()[0]} fp32"]),
            "error": errors[name],
        }
        for name, times in seconds.items()
    ]
    found = {
        "cpu": _cpu(),
        "threads": arguments.threads,
        "rounds": arguments.rounds,
        "onnxruntime": metadata.version("onnxruntime"),
        "random_weights": True,
        "goal": GOAL,
        "rows": rows,
    }
    (RESULTS / "quantised_cpu.json").write_text(json.dumps(found, indent=2) + "\n")
    lines = [
        "# int8 on ONNX Runtime's CPU, the demo",
        "",
        f"{found['cpu']}; {arguments.threads} thread, {arguments.rounds} rounds, interleaved; "
        f"onnxruntime {found['onnxruntime']};",
        "random weights (R). `python benchmarks/quantised_cpu.py`",
        "",
        "| engine | ms, median | to fp32 | error |",
        "|---|--:|--:|--:|",
        *(
            f"| {row['engine']} R | {1e3 * float(str(row['median_s'])):.1f} "
            f"| {row['to_fp32']:.2f} | {row['error']:.1e} |"
            for row in rows
        ),
        "",
        "The error is the relative L2 distance of the whole model's outputs to diffusers' in fp32.",
    ]
    (RESULTS / "quantised_cpu.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


def _cpu() -> str:
    text = Path("/proc/cpuinfo").read_text()
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields[key.strip()] = value.strip()
    flags = fields.get("flags", "").split()
    integer = [flag for flag in ("avx2", "avx_vnni", "avx512_vnni", "amx_int8") if flag in flags]
    model = f"family {fields.get('cpu family')} model {fields.get('model')}"
    return f"{fields.get('model name', 'unknown CPU')} ({model}) with {', '.join(integer)}"


if __name__ == "__main__":
    main()
