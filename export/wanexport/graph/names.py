"""Names of our own for a traced graph, so that every torch and onnxscript writes the same bytes.

What the exporter calls a node or a value (`node_type_as`, `view_12`, `s30`), the order in which it
lists attributes and initializers, and which defaults it writes out differ between versions; what
the graph computes doesn't. `tests/wanexport/graph/graph_hashes.toml` holds graphs to that.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Collection

import onnx_ir as ir

__all__ = ["name_graph", "sort_initializers", "stored_name"]

BRANCHES = (".lora_A", ".lora_B")
MOVED = ("Cast", "Reshape")  # from a parameter to the product that applies it
NEWER = {"Cast": ("saturate",)}  # attributes at their default that only some versions write


def name_graph(graph: ir.Graph, dims: Collection[str] = ()) -> None:
    """Name all that a traced piece of the model holds, its inputs and parameters excepted.

    A Gemm has the name of the parameter that it applies, `attn1.to_q` or `attn2.to_k.lora_A`, an
    attention that of its module, `attn2.attention`. Other nodes have their module's name and their
    operator's, `attn1.norm_q.RMSNormalization`, `attn1.to_q.Reshape_2`: the module is that of the
    parameter that a node reads, or else of what its first input comes from. Whoever reads the
    graph, a profile of it or a plan that was built from it then sees which layer of the model a
    node is. A value is `NODE.value`, a constant is named by its dtype, shape and bytes.

    Args:
        graph: what was traced, without nodes that nothing reads.
        dims: the names of open dimensions that are the model's own; others are forgotten.
    """
    _share_constants(graph)
    attentions = iter(("attn1.attention", "attn2.attention", "attn2.image_attention"))
    modules = {v: _module(n) for n, v in graph.initializers.items() if v.const_value is None}
    parameters = set(modules)
    modules |= dict.fromkeys(graph.inputs, "")
    counts: Counter[str] = Counter()
    for node in graph:
        read = [value for value in node.inputs if value in parameters]
        first = next((value for value in node.inputs if value in modules), None)
        source = read[0] if read else first
        module = "" if source is None else modules.get(source, "")
        if read and all(v is None or v in parameters or _is_constant(v) for v in node.inputs):
            parameters.update(node.outputs)
        if node.op_type == "Attention":
            node.name = next(attentions)
            module = node.name.partition(".")[0]
        elif node.op_type == "Gemm" and (parameter := stored_name(node.inputs[1])):
            node.name = parameter.removesuffix(".weight")
        else:
            node.name = f"{module}.{node.op_type}".removeprefix(".")
            counts[node.name] += 1
            if counts[node.name] > 1:
                node.name += f"_{counts[node.name]}"
        for index, value in enumerate(node.outputs):
            modules[value] = module
            value.name = f"{node.name}.value" + (f"_{index + 1}" if index else "")
            _forget_dims(value, dims)
        _sort_attributes(node)


def sort_initializers(graph: ir.Graph) -> None:
    """List the initializers by name, layer 2 before layer 10."""
    ordered = sorted(graph.initializers.items(), key=lambda item: _natural(item[0]))
    graph.initializers.clear()
    graph.initializers.update(ordered)


def stored_name(value: ir.Value | None) -> str:
    """Return the name of the initializer that a value is, cast or not; empty if it is not one."""
    moved = value.producer() if value is not None else None
    while moved is not None and moved.op_type in MOVED:
        value = moved.inputs[0]
        moved = value.producer() if value is not None else None
    return (value.name or "") if value is not None and value.is_initializer() else ""


def _share_constants(graph: ir.Graph) -> None:
    """Keep one initializer per distinct constant, named by what it is."""
    for name, value in list(graph.initializers.items()):
        tensor = value.const_value
        if tensor is None:
            continue
        del graph.initializers[name]
        shape = "x".join(map(str, tensor.shape.numpy())) or "scalar"
        digest = hashlib.sha256(tensor.tobytes()).hexdigest()[:12]
        name = f"constant.{tensor.dtype.name.lower()}.{shape}.{digest}"
        if (known := graph.initializers.get(name)) is not None:
            ir.convenience.replace_all_uses_with(value, known)
            continue
        value.name = tensor.name = name
        graph.initializers[name] = value


def _module(parameter: str) -> str:
    """Return the layer that a parameter is of; that of a low-rank branch is its layer's."""
    module = parameter.rpartition(".")[0]
    for branch in BRANCHES:
        module = module.removesuffix(branch)
    return module


def _is_constant(value: ir.Value) -> bool:
    return value.is_initializer() and value.const_value is not None


def _forget_dims(value: ir.Value, known: Collection[str]) -> None:
    if value.shape is not None:
        value.shape = ir.Shape(
            dim if isinstance(dim, int) or dim.value in known else None for dim in value.shape
        )


def _sort_attributes(node: ir.Node) -> None:
    ordered = sorted(node.attributes.items())
    node.attributes.clear()
    node.attributes.update({n: a for n, a in ordered if n not in NEWER.get(node.op_type, ())})


def _natural(name: str) -> list[int | str]:
    parts = re.split(r"(\d+)", name)  # text at even places, digits at odd ones
    return [int(part) if place % 2 else part for place, part in enumerate(parts)]
