"""Names of a traced graph: which layer a node is of; the same bytes from every torch."""

from __future__ import annotations

import tomllib
from pathlib import Path

import onnx_ir as ir
import pytest
from graph_hashes import CASES, Case, hash_graphs
from studies import I2V, SIZE

from wanexport.graph.names import name_graph, sort_initializers
from wanexport.graph.trace import GraphSpec, trace_graph
from wanrt.manifest.parts import part_of_module

HASHES = tomllib.loads((Path(__file__).parent / "graph_hashes.toml").read_text(encoding="utf-8"))
SLOW = [case for case in CASES if case.dynamic or "14b" in case.name or case.dtype != "fp32"]
QUICK = [case for case in CASES if case not in SLOW]


@pytest.mark.parametrize(
    "case",
    [*QUICK, *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW)],
    ids=lambda case: case.name,
)
def test_graph_has_the_bytes_of_every_torch(case: Case) -> None:
    """A hash that differs says that torch, onnxscript or a pass writes another graph.

    If that was meant: `python tools/graph_hashes.py > tests/wanexport/graph/graph_hashes.toml`.
    """
    assert hash_graphs(case) == HASHES[case.name]


def test_every_hash_is_of_a_graph() -> None:
    assert list(HASHES) == [case.name for case in CASES]


def test_nodes_are_named_by_layer_or_module_and_operator() -> None:
    graph = trace_graph(GraphSpec(I2V, SIZE, "bf16", {"blocks.1.attn2.to_q": 4})).graph
    names = [node.name or "" for node in graph]
    values = [value.name or "" for node in graph for value in node.outputs]
    assert len({*names}) == len(names)
    assert len({*values}) == len(values)
    for name in (
        "stem.patch_embedding", "blocks.1.attn2.to_q", "blocks.1.attn2.to_q.lora_A",
        "blocks.0.attn1.attention", "blocks.0.attn1.norm_q.RMSNormalization",
        "blocks.0.attn1.norm_k.RotaryEmbedding", "blocks.0.ffn.net.0.proj.Gelu",
        "blocks.1.LayerNormalization_2", "head.proj_out.Transpose",
    ):  # fmt: skip
        assert name in names
    for node in graph:
        computes = node.op_type in ("Gemm", "Attention")
        assert (part_of_module(node.name or "") is not None) == computes, node.name
        known = ("stem", "time", "blocks.0", "blocks.1", "sample", f"{node.name}.value")
        assert node.outputs[0].name in known


def test_what_versions_write_differently_becomes_one() -> None:
    models = [_make(first, names) for first, names in ((0, "xyz"), (1, "abc"))]
    for model in models:
        name_graph(model.graph, ("batch",))
        sort_initializers(model.graph)
    one, other = (ir.to_proto(model).SerializeToString() for model in models)
    assert one == other
    graph = models[0].graph
    assert [node.name for node in graph] == ["Cast", "layers.2.Mul", "layers.10.Add"]
    assert [str(node.outputs[0].shape) for node in graph] == ["[batch,None]"] * 3
    assert [name for name in graph.initializers if "layers" in name] == [
        "layers.2.weight", "layers.10.weight"
    ]  # fmt: skip


def _make(turn: int, names: str) -> ir.Model:
    """Return a graph in which all that may differ depends on the arguments."""
    shape, kind = ir.Shape(("batch", f"s{turn}")), ir.TensorType(ir.DataType.FLOAT)
    x = ir.Value(name="x", shape=ir.Shape(("batch", 3)), type=ir.TensorType(ir.DataType.FLOAT16))
    weights = {
        number: ir.Value(name=f"layers.{number}.weight", shape=ir.Shape([1]), type=kind)
        for number in (2, 10)
    }
    attributes = [ir.AttrInt64("to", 1), ir.AttrInt64("saturate", 1)]
    cast = ir.Node("", "Cast", [x], attributes[:: -1 if turn else 1], name=f"node_{names[0]}")
    multiply = ir.Node("", "Mul", [cast.outputs[0], weights[2]], name=names[1])
    add = ir.Node("", "Add", [multiply.outputs[0], weights[10]], name=names[2])
    nodes = [cast, multiply, add]
    for name, node in zip(names, nodes, strict=True):
        output = node.outputs[0]
        output.name, output.shape, output.type = name, shape, kind
    listed = [weights[2], weights[10]][:: -1 if turn else 1]
    graph = ir.Graph([x], [add.outputs[0]], nodes=nodes, initializers=listed, name="piece")
    return ir.Model(graph, ir_version=10)
