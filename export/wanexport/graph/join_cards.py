"""The graphs of all cards in one, with exchanges as plain operators: what runs on one CPU.

So what several cards compute can be compared with what one computes, before there is any card.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from wanexport.graph.cards import CARD_INPUT, COLLECTIVE, count_cards
from wanexport.graph.rewrite import dims, make

__all__ = ["join_cards"]


def join_cards(model: ir.Model) -> ir.Model:
    """Return a graph of all cards; its outputs are each card's, named `sample.card0` and so on.

    What depends on no card's tokens is there once, and so is every weight. Names of a card's own
    values and nodes end in its index.

    Args:
        model: a graph that `cut_for_cards` made.
    """
    joined, cards = model.clone(), count_cards(model)
    graph = joined.graph
    (card,) = (value for value in graph.inputs if value.name == CARD_INPUT)
    part = (dims(card) or (0,))[0]
    own: dict[ir.Value, list[ir.Value]] = {
        card: [_tokens(graph, index, part) for index in range(cards)]
    }
    originals = [*graph]
    for node in originals:
        if any(value in own for value in node.inputs):
            _copy(graph, node, own, cards)
    graph.outputs[:] = [copy for value in graph.outputs for copy in own[value]]
    graph.remove([n for n in originals if any(v in own for v in n.outputs)], safe=True)
    graph.inputs.remove(card)
    return joined


def _tokens(graph: ir.Graph, index: int, part: int) -> ir.Value:
    """Return the constant in the place of one card's input."""
    array = np.arange(index * part, (index + 1) * part, dtype=np.float32)
    name = f"{CARD_INPUT}.card{index}"
    value = ir.Value(
        name=name,
        const_value=ir.tensor(array, name=name),
        shape=ir.Shape([part]),
        type=ir.TensorType(ir.DataType.FLOAT),
    )
    graph.initializers[name] = value
    return value


def _copy(graph: ir.Graph, node: ir.Node, own: dict[ir.Value, list[ir.Value]], cards: int) -> None:
    """Put a copy of a node for every card before it, or what all exchange."""
    if node.op_type == COLLECTIVE:
        copies = _exchange(graph, node, own, cards)
    else:
        copies = []
        for index in range(cards):
            inputs = [own[v][index] if v is not None and v in own else v for v in node.inputs]
            copy = ir.Node(
                node.domain, node.op_type, inputs, list(node.attributes.values()),
                num_outputs=len(node.outputs),
            )  # fmt: skip
            copies.append(copy)
    for index, copy in enumerate(copies):
        copy.name = f"{node.name}.card{index}"
        for old, new in zip(node.outputs, copy.outputs, strict=True):
            new.name = f"{old.name}.card{index}"
            new.shape, new.type = old.shape, old.type
            own.setdefault(old, []).append(new)
    graph.insert_before(node, copies)


def _exchange(
    graph: ir.Graph, node: ir.Node, own: dict[ir.Value, list[ir.Value]], cards: int
) -> list[ir.Node]:
    """Return for each card the node that puts together what it gets from all."""
    value = node.inputs[0]
    assert value is not None
    sent: list[list[ir.Value]] = [[one] * cards for one in own[value]]  # from, to
    if node.attributes["collective_operation"].as_string() == "all_to_all":
        sent = []
        for index, one in enumerate(own[value]):
            split = ir.Node(
                "", "Split", [one],
                [ir.AttrInt64("axis", 0), ir.AttrInt64("num_outputs", cards)], num_outputs=cards,
            )  # fmt: skip
            split.name = f"{node.name}.split.card{index}"
            _, *rest = dims(one) or (0,)
            for to, output in enumerate(split.outputs):
                output.name = f"{split.name}.{to}"
                output.shape, output.type = ir.Shape([1, *rest]), one.type
            graph.insert_before(node, split)
            sent.append(list(split.outputs))
    axis = {"axis": ir.AttrInt64("axis", 0)}
    return [
        make("Concat", [parts[to] for parts in sent], node.outputs[0], attributes=axis)
        for to in range(cards)
    ]
