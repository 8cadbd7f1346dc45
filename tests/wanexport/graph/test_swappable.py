"""A swappable graph's inputs: A, B and strengths, and what multiplies what."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from studies import I2V, SIZE

from wanexport.graph import passes
from wanexport.graph.swappable import STRENGTHS, make_swappable
from wanexport.graph.trace import GraphSpec, trace_graph
from wanexport.lora.targets import select_modules
from wanrt.manifest.fields import Dtype
from wanrt.manifest.schema import Backend

MODULES = select_modules(I2V, "cross-attention")
NAMES = [f"{module}.{half}" for module in MODULES for half in ("lora_A", "lora_B")]
RANK = 4


def make(backend: Backend, dtype: Dtype, joined: tuple[str, ...] = ()) -> ir.Model:
    spec = GraphSpec(I2V, SIZE, dtype, dict.fromkeys(MODULES, RANK))
    model = passes.lower_for(trace_graph(spec), backend, dtype, joined)
    make_swappable(model, NAMES, RANK, backend, dtype)
    return model


def producer(value: ir.Value | None) -> str:
    node = value.producer() if value is not None else None
    return node.op_type if node is not None else ""


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [("onnxruntime", "fp32"), ("onnxruntime", "bf16"), ("tensorrt-rtx", "fp16")],
)
def test_every_a_is_multiplied_in_fp32_and_rounded_once(backend: Backend, dtype: Dtype) -> None:
    graph = make(backend, dtype).graph
    inputs = [value.name for value in graph.inputs]
    assert inputs[-len(NAMES) - 1 :] == [*NAMES, STRENGTHS]
    strengths = graph.inputs[-1]
    assert strengths.dtype == ir.DataType.FLOAT
    assert tuple(strengths.shape or ()) == (RANK,)
    for value in graph.inputs[:-1]:
        if (value.name or "").endswith(".lora_A"):
            path = []
            while len(users := list(value.uses())) == 1:
                node = users[0].node
                if node.op_type not in ("Cast", "Mul"):
                    break
                path.append(node.op_type)
                value = node.outputs[0]
            assert path == (["Mul"] if dtype == "fp32" else ["Cast", "Mul", "Cast"])


def test_text_and_image_branches_read_an_x_of_their_own_for_tensorrt() -> None:
    """Else the builder puts the weights of k and v together with both A in every forward."""
    queries = tuple(m for m in MODULES if m.endswith(("to_q", "to_out.0")))
    nodes = {node.name: node for node in make("tensorrt-rtx", "bf16", queries).graph}
    for module in MODULES:
        x = nodes[f"{module}.lora_A"].inputs[0]
        assert (producer(x) == "Min") == (module not in queries), module


def test_no_x_is_hidden_from_onnx_runtime() -> None:
    assert not [node for node in make("onnxruntime", "bf16").graph if node.op_type == "Min"]
