"""What a base of 8 bits leaves of a LoRA's effect: merged before, merged after, beside it.

    python benchmarks/quantised_adapters.py [--width 5120]

One linear layer, random, on a CPU, by the exporter's own code: its quantised weights, and its graph
for TensorRT, whose products of 8 bits ONNX Runtime emulates. The effect of an adapter is what it
changes in the layer's output; gain is how much of the true effect is in that, noise what else is,
relative to the true effect. Writes `benchmarks/results/quantised_adapters.{json,md}`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from torch import Tensor

from wanexport.graph.fusible.scaled_products import scale_products
from wanexport.model.quantization import Format, find_format
from wanexport.weights.quantize import fake_quantize, quantize

RESULTS = Path(__file__).parent / "results"
RANKS = (8, 32, 128)
CHANGES = (0.003, 0.01, 0.03, 0.1)
ROWS, SEED = 256, 0
WAYS = {
    "merged": "merged from pristine weights, then quantised",
    "into": "merged into quantised weights, quantised again",
    "branch": "beside them, in bf16",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure adapters on bases of 8 bits.")
    parser.add_argument("--width", type=int, default=5120)
    width = parser.parse_args().width
    rows = [row for name in ("fp8", "int8") for row in measure(name, width)]
    (RESULTS / "quantised_adapters.json").write_text(json.dumps(rows, indent=1) + "\n")
    text = tabulate(rows, width)
    (RESULTS / "quantised_adapters.md").write_text(text)
    print(text)


def measure(scheme: str, width: int) -> Iterator[dict[str, object]]:
    """Yield a row per rank and size of change."""
    form = find_format(scheme, "tensorrt-rtx")  # type: ignore[arg-type]
    assert form is not None
    generator = torch.Generator().manual_seed(SEED)
    weight = torch.randn(width, width, generator=generator) / width**0.5
    x = torch.randn(ROWS, width, generator=generator)
    x[:, :: width // 40] *= 20  # outlier channels
    layer = Layer(form, width)
    base = layer.run(x, weight)
    for rank in RANKS:
        down = torch.randn(rank, width, generator=generator) / width**0.5
        up = torch.randn(width, rank, generator=generator)
        up *= weight.norm() / (up @ down).norm()
        for change in CHANGES:
            change_b = change * up
            true = (x @ down.T) @ change_b.T
            delta = change_b @ down
            found = {
                "merged": layer.run(x, weight + delta) - base,
                "into": layer.run(x, fake_quantize(weight, form) + delta) - base,
                "branch": branch(x, down, change_b),
            }
            row: dict[str, object] = {"scheme": scheme, "rank": rank, "change": change}
            for name, effect in found.items():
                row[f"{name}_gain"], row[f"{name}_noise"] = compare(effect, true)
            yield row


class Layer:
    """A linear layer without bias, lowered by the exporter; its weights are given with each run."""

    def __init__(self, form: Format, width: int) -> None:
        self.form = form
        fp32 = ir.TensorType(ir.DataType.FLOAT)
        shapes = {"x": (ROWS, width), "l.weight": (width, width)}
        x, weight = (ir.Value(name=n, shape=ir.Shape(s), type=fp32) for n, s in shapes.items())
        gemm = ir.node("Gemm", [x, weight], {"transB": 1}, name="blocks.0.l")
        last = ir.node("Identity", gemm.outputs, name="last")
        for node, name in ((gemm, "product"), (last, "y")):
            value = node.outputs[0]
            value.name, value.shape, value.type = name, ir.Shape((ROWS, width)), fp32
        graph = ir.Graph(
            [x], last.outputs, nodes=[gemm, last], initializers=[weight], opset_imports={"": 23}
        )
        model = ir.Model(graph, ir_version=10)
        scale_products(model, ir.DataType.BFLOAT16, ("l",), form)
        self.stored = model.graph.initializers["l.weight"].dtype
        for name in ("l.weight", "l.weight_scale"):
            model.graph.inputs.append(model.graph.initializers.pop(name))
        data = ir.to_proto(model).SerializeToString()
        self.session = ort.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(self, x: Tensor, weight: Tensor) -> Tensor:
        """Quantise a weight, multiply and return the output in fp32."""
        q, scale = quantize(weight, self.form)
        binding = self.session.io_binding()
        narrow = ort.OrtValue.ortvalue_from_numpy_with_onnx_type(
            q.view(torch.uint8).numpy(), self.stored
        )
        binding.bind_ortvalue_input("l.weight", narrow)
        for name, tensor in (("x", x), ("l.weight_scale", scale)):
            binding.bind_cpu_input(name, np.ascontiguousarray(tensor.numpy()))
        binding.bind_output("y")
        self.session.run_with_iobinding(binding)
        return torch.from_numpy(binding.copy_outputs_to_cpu()[0])


def branch(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """Return (x A^T) B^T with x, A, B and x A^T rounded to bf16."""
    x, down, up = (tensor.bfloat16().float() for tensor in (x, down, up))
    return (x @ down.T).bfloat16().float() @ up.T


def compare(effect: Tensor, true: Tensor) -> tuple[float, float]:
    """Return how much of the true effect is in another, and what else is, relative to it."""
    effect, true = effect.double(), true.double()
    size = float((true * true).sum())
    gain = float((effect * true).sum()) / size
    return gain, float((effect - gain * true).norm()) / size**0.5


def tabulate(rows: list[dict[str, object]], width: int) -> str:
    """Return the tables as Markdown."""
    lines = [
        "# What a base of 8 bits leaves of a LoRA",
        "",
        f"`python benchmarks/quantised_adapters.py`: one linear layer of {width} x {width}, "
        f"{ROWS} rows,",
        "outlier channels, random weights (R), on a CPU; both from the exporter's own code. gain / "
        "noise,",
        "relative to the adapter's true effect; of the branch, before it is added to the base.",
        "",
    ]
    for scheme in ("fp8", "int8"):
        lines += [f"## {scheme}", "", f"| rank | change / W | {' | '.join(WAYS.values())} |"]
        lines.append("|--:|--:|--:|--:|--:|")
        for row in rows:
            if row["scheme"] == scheme:
                cells = [f"{row[f'{n}_gain']:.2f} / {row[f'{n}_noise']:.3g}" for n in WAYS]
                lines.append(f"| {row['rank']} | {row['change']:.1%} | {' | '.join(cells)} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
