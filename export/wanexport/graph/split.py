"""Split a forward in two: what depends on the prompt and the image alone, and what is left.

K and V of the cross-attentions don't change from step to step, so the `context` graph computes them
once per prompt; the `denoise` graph runs in every forward. Nothing is traced again: the finished
graph is cut where values that depend on latents or timestep read values that don't.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx_ir as ir

from wanexport.errors import BuildError
from wanexport.graph.join import fingerprint, join_graphs
from wanexport.graph.names import sort_initializers
from wanexport.graph.rewrite import producer

__all__ = ["SplitGraph", "split_graph"]

CHANGING = ("hidden_states", "timestep")
ROLES = ("", "k", "v")  # of an attention's inputs
BUG = "this is a bug; report it"


@dataclass(frozen=True)
class SplitGraph:
    """Two graphs that are one forward together.

    Args:
        context: from text and image to what every forward reads of them.
        denoise: from latents, timestep and that to the sample; its inputs are named as the
            context's outputs: `blocks.N.attn2.k`, `.v`, `.added_k`, `.added_v`.
    """

    context: ir.Model
    denoise: ir.Model


def split_graph(model: ir.Model) -> SplitGraph:
    """Return a finished forward's two graphs, which share no weight.

    Args:
        model: the graph; what it computes stays, but where it reads the batch from text or image
            for a shape, it reads it from the latents afterwards.

    Raises:
        BuildError: both graphs joined aren't the forward.
    """
    _read_batch_from_latents(model)
    cut = _name_cut(_find_cut(model))
    graph = model.graph
    changing = [value for value in graph.inputs if value.name in CHANGING]
    context = ir.convenience.extract(graph, _without(graph.inputs, changing), cut)
    fixed = [value for value in graph.inputs if _is_data(value) and value not in changing]
    denoise = ir.convenience.extract(graph, [*_without(graph.inputs, fixed), *cut], graph.outputs)
    context.name, denoise.name = "context", "denoise"
    for half in (context, denoise):  # `extract` lists them in the order of a set
        sort_initializers(half)
    split = SplitGraph(_with_used_inputs(model, context), _with_used_inputs(model, denoise))
    if fingerprint(join_graphs(split.context, split.denoise)) != fingerprint(model):
        raise BuildError("context and denoise together aren't the forward", BUG)
    return split


def _find_cut(model: ir.Model) -> list[ir.Value]:
    """Return the values that change never and that changing nodes read, in their order."""
    changing = {value for value in model.graph.inputs if value.name in CHANGING}
    fixed = {v for v in model.graph.inputs if _is_data(v) and v not in changing}
    cut: dict[ir.Value, None] = {}
    for node in model.graph:
        if changing.intersection(node.inputs):
            cut |= dict.fromkeys(v for v in node.inputs if v is not None and v in fixed)
            changing.update(node.outputs)
        elif fixed.intersection(node.inputs):
            fixed.update(node.outputs)
    return list(cut)


def _name_cut(cut: Iterable[ir.Value]) -> list[ir.Value]:
    """Name what an attention reads after its module: `blocks.3.attn2.added_k`."""
    named = []
    for value in cut:
        node, index = next((use.node, use.idx) for use in value.uses() if _is_attention(use.node))
        module, _, kind = (node.name or "").rpartition(".")
        added = "added_" if kind.startswith("image") else ""
        value.name = f"{module}.{added}{ROLES[index]}"
        named.append(value)
    return named


def _is_attention(node: ir.Node) -> bool:
    return node.op_type in ("Attention", "MultiHeadAttention")


def _is_data(value: ir.Value) -> bool:
    return (value.name or "").startswith((*CHANGING, "encoder_hidden_states"))


def _read_batch_from_latents(model: ir.Model) -> None:
    """Compute shapes that changing nodes read from the latents: a shape isn't a context.

    A dynamic graph reads its batch from whichever input came first.
    """
    latents = next(value for value in model.graph.inputs if value.name == CHANGING[0])
    copies: dict[ir.Value, ir.Value] = {}
    for value in _find_cut(model):
        if value.dtype != ir.DataType.INT64:
            continue
        own = _copy_shape(model, value, latents, copies)
        for user, index in list(value.uses()):
            if not _feeds_context(user):
                user.replace_input_with(index, own)


def _copy_shape(
    model: ir.Model, value: ir.Value, latents: ir.Value, copies: dict[ir.Value, ir.Value]
) -> ir.Value:
    """Return a value's copy whose batch is the latents', made once."""
    node = value.producer()
    if node is None:
        return value  # a constant
    if value in copies:
        return copies[value]
    if producer(value, "Shape") is not None:
        bounds = [node.attributes[key].as_int() for key in ("start", "end")]
        if bounds != [0, 1]:
            raise BuildError(f"{value.name} is more of a shape than the batch", BUG)
        inputs: list[ir.Value | None] = [latents]
    else:
        inputs = [
            None if v is None else _copy_shape(model, v, latents, copies) for v in node.inputs
        ]
    copy = ir.Node(node.domain, node.op_type, inputs, list(node.attributes.values()))
    copy.name = f"{node.name}.latents"
    output = copy.outputs[0]
    output.name, output.shape, output.type = f"{value.name}.latents", value.shape, value.type
    model.graph.insert_before(node, [copy])
    copies[value] = output
    return output


def _feeds_context(node: ir.Node) -> bool:
    """Tell whether a node depends on text or image and on nothing that changes."""
    reached, rest, seen = False, [node], {node}
    while rest:
        for value in rest.pop().inputs:
            if value is None:
                continue
            if value.name in CHANGING and value.producer() is None:
                return False
            before = value.producer()
            if before is None:
                reached = reached or _is_data(value)
            elif before not in seen:
                seen.add(before)
                rest.append(before)
    return reached


def _with_used_inputs(model: ir.Model, graph: ir.Graph) -> ir.Model:
    """Return a model of a graph without the inputs that nothing reads."""
    outputs = set(graph.outputs)
    unused = [v for v in graph.inputs if not v.uses() and v not in outputs]
    for value in unused:
        graph.inputs.remove(value)
    return ir.Model(graph, ir_version=model.ir_version, producer_name=model.producer_name)


def _without(values: Iterable[ir.Value], left_out: Iterable[ir.Value]) -> list[ir.Value]:
    out = set(left_out)
    return [value for value in values if value not in out]
