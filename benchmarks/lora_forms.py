"""Which form of an unmerged low-rank branch is cheapest: y = x Wt + b + (x At) Bt.

    python benchmarks/lora_forms.py [--tokens 2048] [--width 1536] [--threads 2]

Three forms on ONNX Runtime's CPU provider, fp32, interleaved, as a ratio to the base Gemm alone:

- add: Gemm, Gemm, Gemm, Add
- gemm_c: the second Gemm of the branch takes the base's output as its C
- concat: one Gemm with [W; A] stacked, then Slice, Slice, Gemm with C

concat needs a copy of W, so it has to win clearly to be worth its disk space. For TensorRT, where
branches can be part of the layer's product, lora_turn.py shows from how many tokens on that pays.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper

RESULTS = Path(__file__).parent / "results"
FORMS = ("base", "add", "gemm_c", "concat")


def main() -> None:
    parser = argparse.ArgumentParser(description="Time the forms of a low-rank branch.")
    parser.add_argument("--tokens", type=int, default=2048)
    parser.add_argument("--width", type=int, default=1536)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=25)
    arguments = parser.parse_args()
    lines = [
        f"# Forms of the low-rank branch: {arguments.tokens} tokens, width {arguments.width}, "
        f"fp32, {arguments.threads} threads, onnxruntime {ort.__version__}",
        "",
        "Median over rounds of the time relative to the base Gemm alone in the same round.",
        "",
        "| rank | add | gemm_c | concat |",
        "|--:|--:|--:|--:|",
    ]
    for rank in (8, 32, 128, 256):
        ratios = _measure(arguments, rank)
        lines.append(f"| {rank} | " + " | ".join(f"{ratios[f]:.3f}" for f in FORMS[1:]) + " |")
        print(lines[-1], flush=True)
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "lora_forms.md").write_text("\n".join(lines) + "\n")


def _measure(arguments: argparse.Namespace, rank: int) -> dict[str, float]:
    generator = np.random.default_rng(0)
    x = generator.standard_normal((arguments.tokens, arguments.width), dtype=np.float32)
    runs = {form: _session(form, arguments, rank, x) for form in FORMS}
    outputs = {form: run()[0] for form, run in runs.items()}
    for form in ("gemm_c", "concat"):
        np.testing.assert_allclose(outputs[form], outputs["add"], rtol=1e-3, atol=1e-3)
    ratios: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(arguments.rounds):
        seconds = {}
        for form in random.sample(FORMS, len(FORMS)):
            runs[form]()
            start = time.perf_counter()
            runs[form]()
            seconds[form] = time.perf_counter() - start
        for form in FORMS:
            ratios[form].append(seconds[form] / seconds["base"])
    return {form: statistics.median(values) for form, values in ratios.items()}


def _session(
    form: str, arguments: argparse.Namespace, rank: int, x: np.ndarray
) -> Callable[[], list[np.ndarray]]:
    width = arguments.width
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((width, width), dtype=np.float32) * np.float32(width**-0.5)
    down = rng.standard_normal((rank, width), dtype=np.float32) * np.float32(width**-0.5)
    up = rng.standard_normal((width, rank), dtype=np.float32) * np.float32(rank**-0.5)
    bias = rng.standard_normal(width, dtype=np.float32)
    arrays = {"W": weight, "A": down, "B": up, "b": bias}
    gemm: dict[str, Any] = {"transB": 1}
    nodes = {
        "base": [helper.make_node("Gemm", ["x", "W", "b"], ["y"], **gemm)],
        "add": [
            helper.make_node("Gemm", ["x", "W", "b"], ["y0"], **gemm),
            helper.make_node("Gemm", ["x", "A"], ["h"], **gemm),
            helper.make_node("Gemm", ["h", "B"], ["d"], **gemm),
            helper.make_node("Add", ["y0", "d"], ["y"]),
        ],
        "gemm_c": [
            helper.make_node("Gemm", ["x", "W", "b"], ["y0"], **gemm),
            helper.make_node("Gemm", ["x", "A"], ["h"], **gemm),
            helper.make_node("Gemm", ["h", "B", "y0"], ["y"], **gemm),
        ],
        "concat": [
            helper.make_node("Gemm", ["x", "WA", "b0"], ["yh"], **gemm),
            helper.make_node("Split", ["yh", "sizes"], ["y0", "h"], axis=1),
            helper.make_node("Gemm", ["h", "B", "y0"], ["y"], **gemm),
        ],
    }[form]
    if form == "concat":
        arrays |= {
            "WA": np.concatenate([weight, down]),
            "b0": np.concatenate([bias, np.zeros(rank, np.float32)]),
            "sizes": np.array([width, rank]),
        }
    used = {name for node in nodes for name in node.input}
    graph = helper.make_graph(
        nodes,
        form,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [len(x), width])],
        [onnx.numpy_helper.from_array(a, n) for n, a in arrays.items() if n in used],
    )
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 23)])
    options = ort.SessionOptions()
    options.intra_op_num_threads = arguments.threads
    options.add_session_config_entry("session.force_spinning_stop", "1")
    session = ort.InferenceSession(model.SerializeToString(), options)
    return lambda: session.run(None, {"x": x})


if __name__ == "__main__":
    main()
