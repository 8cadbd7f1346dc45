"""Cut a finished graph into that of one card of several, which compute one forward together.

Each card holds every n-th part of the tokens. Around self-attention the cards exchange, so that
each sees all tokens of its own heads (Ulysses, arXiv 2309.14509). All else, low-rank branches
included, is computed per token and stays as it is. The graph is the same for all cards: which
tokens are a card's own is an input.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from wanexport.errors import BuildError
from wanexport.graph.rewrite import cast, constant, dims, make, nodes_of

__all__ = ["CARD_INPUT", "COLLECTIVE", "count_cards", "cut_for_cards"]

CARD_INPUT = "card_tokens"
COLLECTIVE = "DistCollective"  # what TensorRT's parser reads as an exchange over NCCL
MOVES = ("Cast", "Reshape", "Transpose")  # what makes patches of a video
ELEMENTWISE = ("Add", "Max", "Min", "Mul", "Sub")


def cut_for_cards(model: ir.Model, cards: int) -> None:
    """Turn a static graph of one video into that of each of `cards` cards, in place.

    It gets the input `card_tokens` [tokens / cards]: numbers of consecutive tokens, the first
    card's first, in fp32, which holds them exactly below 2^24 and which engines' inputs can have.
    It returns the whole output on every card.

    Args:
        model: a graph that is lowered, with standard Attention.
        cards: a divisor of the tokens and of the heads.

    Raises:
        BuildError: the graph isn't shaped as expected.
    """
    patches = _find_patches(model)
    shape = dims(patches)
    if shape is None or len(shape) != 2 or shape[0] % cards:
        raise _unexpected(patches)
    tokens, part = shape[0], shape[0] // cards
    cut = _Cut(model, cards, tokens, _add_input(model, part))
    cut.gather(patches, 0, [use.node for use in patches.uses()])
    rotary = nodes_of(model, "RotaryEmbedding")
    for table in dict.fromkeys(value for node in rotary for value in node.inputs[1:3]):
        assert table is not None
        cut.gather(table, 1, rotary)
    for node in list(model.graph):
        if any(value in cut.own for value in node.inputs):
            cut.visit(node)
    if cut.ends != 1:
        raise BuildError(f"{cut.ends} values leave the cards", "this is a bug; report it")


def count_cards(model: ir.Model) -> int:
    """Return how many cards a graph was cut for; 1 if it wasn't."""
    collectives = nodes_of(model, COLLECTIVE)
    return collectives[0].attributes["nb_rank"].as_int() if collectives else 1


def _add_input(model: ir.Model, part: int) -> ir.Value:
    """Add the input that says which tokens are a card's; return them as indices."""
    given = ir.Value(name=CARD_INPUT, shape=ir.Shape([part]), type=ir.TensorType(ir.DataType.FLOAT))
    model.graph.inputs.append(given)
    node = cast(given, ir.DataType.INT64)
    node.name = "stem.card"
    node.outputs[0].name = "stem.card.value"
    model.graph.insert_before(model.graph[0], node)
    return node.outputs[0]


def _find_patches(model: ir.Model) -> ir.Value:
    """Follow the video to what the patch embedding reads."""
    value = model.graph.inputs[0]
    while (users := {use.node for use in value.uses()}) and len(users) == 1:
        (node,) = users
        if node.op_type not in MOVES:
            break
        value = node.outputs[0]
    return value


@dataclass
class _Cut:
    """A graph that is being cut.

    Args:
        model: the graph.
        cards: how many.
        tokens: of all cards.
        card: the input that says which are this card's.
        own: values that hold this card's tokens alone.
        ends: how often all cards' tokens were gathered.
    """

    model: ir.Model
    cards: int
    tokens: int
    card: ir.Value
    own: set[ir.Value | None] = field(default_factory=set)
    ends: int = 0

    def gather(self, value: ir.Value, axis: int, users: Iterable[ir.Node]) -> None:
        """Let users of a value, whose tokens lie along an axis, read this card's alone."""
        node = make(
            "Gather", [value, self.card], value, self._own_shape(value),
            {"axis": ir.AttrInt64("axis", axis)},
        )  # fmt: skip
        node.name = f"stem.{(value.name or 'value').removeprefix('stem.')}.card"
        node.outputs[0].name = f"{node.name}.value"
        before = value.producer()
        if before is None:
            self.model.graph.insert_after(self.model.graph[0], node)
        else:
            self.model.graph.insert_after(before, node)
        for user in users:
            for index, read in enumerate(user.inputs):
                if read is value:
                    user.replace_input_with(index, node.outputs[0])
        self.own.add(node.outputs[0])

    def visit(self, node: ir.Node) -> None:
        """Let a node that reads some of this card's tokens write what it should."""
        if node.op_type == "Attention" and all(value in self.own for value in node.inputs[:3]):
            self._exchange_around(node)
            return
        if node.op_type == "Reshape" and not self._has_tokens(node.outputs[0]):
            self._gather_all(node)
            return
        for value in node.inputs if node.op_type in ELEMENTWISE else ():
            if value is not None and value not in self.own and self._has_tokens(value):
                raise _unexpected(value)
        for output in node.outputs:
            output.shape = ir.Shape(self._own_shape(output))
            self.own.add(output)
        if node.op_type == "Reshape":
            node.replace_input_with(1, self._shape(tuple(dims(node.outputs[0]) or ())))

    def _exchange_around(self, attention: ir.Node) -> None:
        """Give an attention all tokens of this card's heads, and its output back to the tokens."""
        cards, part = self.cards, self.tokens // self.cards
        output = attention.outputs[0]
        width = (dims(output) or (0, 0, 0))[2]
        narrow = width // cards
        for index, letter in enumerate("qkv"):
            value = attention.inputs[index]
            assert value is not None
            chain = _Chain(self, value, f"{attention.name}.{letter}")
            chain.reshape(part, cards, narrow)
            chain.transpose()
            chain.collect("all_to_all", (cards, part, narrow))
            chain.reshape(1, self.tokens, narrow)
            chain.insert_before(attention)
            attention.replace_input_with(index, chain.value)
        for name in ("q_num_heads", "kv_num_heads"):
            heads = attention.attributes[name].as_int()
            if heads % cards:
                raise BuildError(f"{cards} cards don't divide {heads} heads", "report this")
            attention.attributes[name] = ir.AttrInt64(name, heads // cards)
        users = list(output.uses())
        output.shape = ir.Shape([1, self.tokens, narrow])
        chain = _Chain(self, output, f"{attention.name}.out")
        chain.reshape(cards, part, narrow)
        chain.collect("all_to_all", (cards, part, narrow))
        chain.transpose()
        chain.reshape(1, part, width)
        self.model.graph.insert_after(attention, chain.nodes)
        for user in users:
            user.node.replace_input_with(user.idx, chain.value)
        self.own.add(chain.value)

    def _gather_all(self, node: ir.Node) -> None:
        """Give a node that makes a video of the tokens those of all cards."""
        value = node.inputs[0]
        assert value is not None
        width = (dims(value) or (0,))[-1]
        chain = _Chain(self, value, f"{node.name}.cards")
        chain.reshape(self.tokens // self.cards, width)
        chain.collect("all_gather", (self.tokens, width))
        chain.insert_before(node)
        node.replace_input_with(0, chain.value)
        self.ends += 1

    def _has_tokens(self, value: ir.Value) -> bool:
        shape = dims(value)
        if shape is None or len(shape) not in (2, 3):
            return False
        return shape[len(shape) - 2] == self.tokens and (len(shape) == 2 or shape[0] == 1)

    def _own_shape(self, value: ir.Value) -> list[int]:
        shape = list(dims(value) or ())
        if not self._has_tokens(value):
            raise _unexpected(value)
        shape[len(shape) - 2] = self.tokens // self.cards
        return shape

    def _shape(self, shape: Sequence[int]) -> ir.Value:
        name = "shape." + "x".join(map(str, shape))
        return constant(self.model, name, np.array(shape, np.int64), ir.DataType.INT64)


class _Chain:
    """Nodes one after the other, from a value on."""

    def __init__(self, cut: _Cut, value: ir.Value, name: str) -> None:
        self.cut, self.value, self.name = cut, value, name
        self.nodes: list[ir.Node] = []

    def reshape(self, *shape: int) -> None:
        """Add a Reshape."""
        self._add(make("Reshape", [self.value, self.cut._shape(shape)], self.value, shape))

    def transpose(self) -> None:
        """Add a Transpose of the first two dimensions of three."""
        first, second, last = dims(self.value) or (0, 0, 0)
        perm = {"perm": ir.AttrInt64s("perm", (1, 0, 2))}
        self._add(make("Transpose", [self.value], self.value, (second, first, last), perm))

    def collect(self, operation: str, shape: Sequence[int]) -> None:
        """Add a collective of all cards."""
        texts = {"collective_operation": operation, "reduce_op": "none"}
        numbers = {"group_size": 0, "root": -1, "nb_rank": self.cut.cards}
        attributes: dict[str, ir.Attr] = {
            **{name: ir.AttrString(name, text) for name, text in texts.items()},
            **{name: ir.AttrInt64(name, number) for name, number in numbers.items()},
        }
        self._add(make(COLLECTIVE, [self.value], self.value, shape, attributes))

    def insert_before(self, node: ir.Node) -> None:
        """Put the nodes into the graph."""
        self.cut.model.graph.insert_before(node, self.nodes)

    def _add(self, node: ir.Node) -> None:
        node.name = f"{self.name}.{len(self.nodes)}"
        node.outputs[0].name = f"{node.name}.value"
        self.nodes.append(node)
        self.value = node.outputs[0]


def _unexpected(value: ir.Value) -> BuildError:
    return BuildError(
        f"{value.name} has a shape that can't be cut for cards: {value.shape}",
        "this is a bug; report it",
    )
