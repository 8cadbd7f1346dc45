"""One forward over several cards: joined in one graph they compute what one card does, exactly."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import pytest

from wanexport.errors import ConfigError
from wanexport.graph.cards import COLLECTIVE, cut_for_cards
from wanexport.graph.emulate import emulate
from wanexport.graph.join_cards import join_cards
from wanexport.graph.passes import lower_for
from wanexport.graph.rewrite import dims, nodes_of
from wanexport.graph.swappable import make_swappable
from wanexport.graph.trace import GraphSpec, trace_graph
from wanexport.lora.targets import choose_targets
from wanexport.model.cards import check_cards
from wanexport.model.config import Architecture, Size

ARCH = Architecture(
    num_layers=2, num_attention_heads=8, ffn_dim=256, in_channels=36, text_dim=64,
    image_dim=1280, added_kv_proj_dim=1024,
)  # fmt: skip
SIZE = Size(width=128, height=64, frames=5)  # 64 tokens
RANK = 4
MODES = ("full", "separate", "swappable")


def make_graph(mode: str, targets: str, dtype: str, joined: bool, traced: str = "fp32") -> ir.Model:
    """Return a lowered graph as a build has it, or its fp32 twin; merged ones are full ones."""
    modules = choose_targets(ARCH, (targets,)).modules if mode != "full" else ()
    ranks = dict.fromkeys(modules, RANK)
    model = trace_graph(GraphSpec(ARCH, SIZE, traced, ranks))
    lower_for(model, "tensorrt-rtx", dtype, tuple(ranks) if joined else ())
    if mode == "swappable":
        names = [f"{module}.{half}" for module in ranks for half in ("lora_A", "lora_B")]
        make_swappable(model, names, RANK, "tensorrt-rtx", dtype)
    return model


def draw(model: ir.Model) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return values of a graph's weights, and of its inputs."""
    rng = np.random.default_rng(0)

    def values(value: ir.Value) -> np.ndarray:
        shape = dims(value) or ()
        scale = 1 / np.sqrt(np.prod(shape[1:])) if len(shape) > 1 else 1.0
        is_weight = value.is_initializer()
        return (rng.standard_normal(shape) * (scale if is_weight else 1)).astype(np.float32)

    weights = {n: values(v) for n, v in model.graph.initializers.items() if v.const_value is None}
    return weights, {v.name or "": values(v) for v in model.graph.inputs}


def run(
    model: ir.Model, weights: Mapping[str, np.ndarray], inputs: Mapping[str, np.ndarray],
    *, optimize: bool = True,
) -> list[np.ndarray]:  # fmt: skip
    """Return a graph's outputs by ONNX Runtime."""
    import onnxruntime as ort

    for name, array in weights.items():
        value = model.graph.initializers[name]
        assert value.dtype is not None
        value.const_value = ir.tensor(
            array.astype(value.dtype.numpy()), dtype=value.dtype, name=name
        )
    options = ort.SessionOptions()
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    held = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(held, options, providers=["CPUExecutionProvider"])
    return [np.asarray(one) for one in session.run(None, dict(inputs))]


CASES = [
    (mode, targets, dtype)
    for mode, targets in (
        ("full", ""),
        *((m, t) for m in MODES[1:] for t in ("cross-attention", "all")),
    )
    for dtype in ("fp32", "bf16")  # whose graphs have another form
]


def is_quick(mode: str, targets: str, dtype: str) -> bool:
    """Tell which cases a run of all tests has; `slow` has the others."""
    return (mode, targets, dtype) == ("swappable", "all", "bf16")


@pytest.mark.parametrize(
    ("mode", "targets", "dtype"),
    [pytest.param(*c, marks=() if is_quick(*c) else pytest.mark.slow) for c in CASES],
)
def test_every_card_returns_what_one_card_does(mode: str, targets: str, dtype: str) -> None:
    one = make_graph(mode, targets, dtype, joined=dtype == "bf16")
    weights, inputs = draw(one)
    (expected,) = run(one, weights, inputs)
    assert np.isfinite(expected).all()
    for cards in (2, 4, 8):
        cut = one.clone()
        cut_for_cards(cut, cards)
        found = run(join_cards(cut), weights, inputs)
        assert len(found) == cards
        for sample in found:
            assert np.array_equal(sample, expected)


@pytest.mark.slow
@pytest.mark.parametrize("cards", [2, 8])
def test_bf16_costs_what_it_does_on_one_card(cards: int) -> None:
    one = make_graph("separate", "all", "bf16", joined=True, traced="bf16")
    weights, inputs = draw(one)
    cut = one.clone()
    cut_for_cards(cut, cards)
    (rounded,) = run(emulate(one, fp32_edges=True), weights, inputs, optimize=False)
    joined = emulate(join_cards(cut), fp32_edges=True)
    for sample in run(joined, weights, inputs, optimize=False):
        # single values round the other way: 5e-7, where bf16 itself costs 6e-3
        assert np.linalg.norm(sample - rounded) < 1e-5 * np.linalg.norm(rounded)


def test_what_is_exchanged() -> None:
    model = make_graph("separate", "all", "bf16", joined=True)
    cut_for_cards(model, 4)
    kinds = [n.attributes["collective_operation"].as_string() for n in nodes_of(model, COLLECTIVE)]
    assert kinds == [*["all_to_all"] * 4 * ARCH.num_layers, "all_gather"]
    heads = [n.attributes["q_num_heads"].as_int() for n in nodes_of(model, "Attention")]
    assert heads == [2, 8, 8] * ARCH.num_layers
    assert dims(model.graph.inputs[-1]) == (SIZE.tokens // 4,)


def test_a_card_works_on_its_own_tokens_alone() -> None:
    model = make_graph("full", "", "bf16", joined=False)
    cut_for_cards(model, 4)
    for node in nodes_of(model, "Gemm"):
        rows = (dims(node.outputs[0]) or (0,))[0]
        assert rows != SIZE.tokens, node.name


@pytest.mark.parametrize(
    ("cards", "tokens", "says"),
    [(3, 32760, "choose 2, 4, 5, 8, 10, 20, 40"), (16, 32760, "choose 2,"), (2, 9, "another")],
)
def test_what_does_not_divide_is_refused(cards: int, tokens: int, says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        check_cards(cards, 40, tokens, 1)
    assert says in refused.value.hint


def test_a_batch_is_refused() -> None:
    with pytest.raises(ConfigError, match="one video"):
        check_cards(2, 40, 32760, 2)
