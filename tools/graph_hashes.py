"""Hash the graphs that this environment's torch and onnxscript write, so that others can compare.

    python tools/graph_hashes.py [--check FILE] [--only WORD]     print NAME = "sha256" lines

Graphs of the demo and of two layers of I2V-14B, in all modes, lowered as `wanexport build` does;
their weights are byte ranges of a file that isn't there. No weight is made or read. With `--check`,
nothing is printed but the names of graphs whose hash isn't that of the file, and the exit code is 1
if there are any. `tests/wanexport/graph/graph_hashes.toml` holds what every version writes.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from wanexport.graph import passes
from wanexport.graph.emulate import emulate
from wanexport.graph.split import split_graph
from wanexport.graph.swappable import make_swappable
from wanexport.graph.trace import GraphSpec, trace_graph
from wanexport.lora.targets import select_modules
from wanexport.model.config import load_config
from wanexport.model.quantization import select_quantized
from wanrt.manifest.fields import Dtype
from wanrt.manifest.schema import Backend

__all__ = ["CASES", "Case", "hash_graphs"]

LAYERS = 2
SHAPING = ("torch", "onnxscript", "onnx-ir", "onnx", "diffusers", "numpy")


@dataclass(frozen=True)
class Case:
    """One engine's graph or graphs.

    Args:
        config: the configuration's name; of a model of more layers, the first two.
        dtype: the engine's.
        backend: what it is lowered for.
        mode: `full`, which is `merged`'s graph too, `separate` or `swappable`.
        targets: what the branches sit on.
        dynamic: whether sizes are left open.
        split: whether it is two graphs.
        joined: whether branches are part of their layers' products, as TensorRT has most.
        quantized: whether blocks are multiplied in int8.
    """

    config: str
    dtype: Dtype
    backend: Backend
    mode: str = "full"
    targets: str = "cross-attention"
    dynamic: bool = False
    split: bool = False
    joined: bool = False
    quantized: bool = False

    @property
    def name(self) -> str:
        """All of it as one word."""
        marks = [m for m in ("dynamic", "split", "joined", "quantized") if getattr(self, m)]
        if self.targets != "cross-attention":
            marks.append(self.targets)
        return "-".join([self.config, self.dtype, self.backend, self.mode, *marks])


def _list_cases() -> Iterator[Case]:
    demo = Case("wan2.1-i2v-demo", "fp32", "onnxruntime")
    big = Case("wan2.1-i2v-14b-480p", "bf16", "tensorrt-rtx")
    for case in (demo, big, replace(big, backend="onnxruntime"), replace(demo, dtype="bf16")):
        for mode in ("full", "separate", "swappable"):
            yield replace(case, mode=mode)
            yield replace(case, mode=mode, dynamic=True)
    for mode in ("separate", "swappable"):
        yield replace(demo, mode=mode, targets="all")
        yield replace(big, mode=mode, joined=True)
    yield replace(demo, mode="swappable", split=True)
    yield replace(demo, quantized=True)
    yield replace(demo, mode="separate", quantized=True)
    yield replace(big, dtype="fp16", mode="separate")


CASES = tuple(_list_cases())


def hash_graphs(case: Case) -> str:
    """Return the sha256 of the bytes of all model.onnx that an engine has."""
    digest = hashlib.sha256()
    for model in _make_graphs(case):
        digest.update(ir.to_proto(model).SerializeToString(deterministic=True))
    return digest.hexdigest()


def _make_graphs(case: Case) -> list[ir.Model]:
    config = load_config(case.config)
    arch = config.architecture.model_copy(update={"num_layers": LAYERS})
    rank = 8 if "demo" in case.config else 32
    modules = select_modules(arch, case.targets) if case.mode != "full" else ()
    spec = GraphSpec(
        arch, config.size, case.dtype, dict.fromkeys(modules, rank), dynamic=case.dynamic
    )
    joined = modules if case.joined else ()
    quantized = select_quantized(arch) if case.quantized else ()
    model = passes.lower_for(trace_graph(spec), case.backend, case.dtype, joined, quantized)
    if case.mode == "swappable":
        names = [f"{module}.{part}" for module in modules for part in ("lora_A", "lora_B")]
        make_swappable(model, names, rank, case.backend, case.dtype)
    _bind(model.graph)
    graphs = [model]
    if case.split:
        halves = split_graph(model)
        graphs = [halves.context, halves.denoise]
    if case.dtype == "bf16" and case.backend == "onnxruntime":
        graphs += [emulate(graph) for graph in graphs]
    return graphs


def _bind(graph: ir.Graph) -> None:
    """Say of every weight where it would lie."""
    for name, value in graph.initializers.items():
        if value.const_value is None:
            assert value.dtype is not None
            assert value.shape is not None
            value.const_value = ir.ExternalTensor(
                "weights/base.safetensors", 0, 0, value.dtype, shape=value.shape, name=name
            )


def main() -> int:
    parser = argparse.ArgumentParser(description="Hash the graphs that this environment writes.")
    parser.add_argument("--check", type=Path, help="a file of hashes to compare with")
    parser.add_argument("--only", default="", help="graphs whose name has this")
    arguments = parser.parse_args()
    expected = tomllib.loads(arguments.check.read_text()) if arguments.check else None
    if expected is None:
        print("# " + ", ".join(f"{name} {version(name)}" for name in SHAPING))
    differing = 0
    for case in CASES:
        if arguments.only not in case.name:
            continue
        digest = hash_graphs(case)
        if expected is None:
            print(f'"{case.name}" = "{digest}"', flush=True)
        elif digest != expected.get(case.name):
            print(f"{case.name} has another graph")
            differing += 1
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
