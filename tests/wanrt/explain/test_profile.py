"""A profile becomes the operators of a forward, or a clear refusal; flops worked out by hand."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from profiles import Tensor, linear, operator, to_profile

from wanrt.errors import EngineError
from wanrt.explain.difference import compare_kernels
from wanrt.explain.profile import Profile, read_profile
from wanrt.explain.work import Work, examine, sum_by_part

QKV: list[Tensor] = [("float", (2, 6, 8)), ("float", (2, 5, 8)), ("float", (2, 5, 4))]
FORWARD = (
    operator("Cast", "stem.Cast", [("int64", (6,))], [("float", (6,))]),
    operator("Reshape", "blocks.0.attn1.to_q.Reshape", [("float", (6, 16)), ("int64", (2,))],
             [("float", (6, 16))]),
    linear("blocks.0.attn1.to_q"),
    operator("MultiHeadAttention", "blocks.0.attn1.attention", QKV, [("float", (2, 6, 4))]),
    operator("SkipLayerNormalization", "SkipLayerNormalization", [("float16", (6, 16))] * 2,
             [("float16", (6, 16))]),
    linear("blocks.0.attn2.to_q.lora_A"),
    linear("head.proj_out", packed=True),
)  # fmt: skip
GEMM = 2 * 6 * 16 * 16
GEMM_BYTES = 4 * (6 * 16 + 16 * 16 + 16 + 6 * 16)
ATTENTION = 2 * 2 * 6 * 5 * (8 + 4)


def read(*operators: dict[str, Any]) -> Profile:
    return read_profile(to_profile(*operators), "an engine")


def work_of(*operators: dict[str, Any]) -> tuple[Work, ...]:
    return examine(read(*operators).kernels)


def test_only_the_last_forward_counts_in_the_order_in_which_it_ran() -> None:
    found = read(*FORWARD)
    names = [one.name for one in found.kernels]
    assert names[0] == "stem.Cast"
    assert names[-1] == "head.proj_out"
    assert "stem.First" not in names
    assert found.seconds == pytest.approx(0.008)
    assert all(one.seconds == pytest.approx(0.001) for one in found.kernels)


def test_parts_bytes_and_flops_are_those_of_the_shapes() -> None:
    sums = sum_by_part(work_of(*FORWARD))
    assert {part: (one.moved, one.flops) for part, one in sums.items()} == {
        "embedding": (6 * 8 + 6 * 4, 0),
        "elementwise": (2 * 3 * 6 * 16, 0),  # a view moves nothing
        "self_attention_linear": (GEMM_BYTES, GEMM),
        "self_attention": (4 * (2 * 6 * 8 + 2 * 5 * 8 + 2 * 5 * 4 + 2 * 6 * 4), ATTENTION),
        "lora": (GEMM_BYTES, GEMM),
        "head": (GEMM_BYTES, GEMM),  # its weight worked out
    }
    assert sums["elementwise"].seconds == pytest.approx(0.002)


def test_engines_differ_where_operators_types_or_shapes_do() -> None:
    plain = work_of(linear("head.proj_out"))
    assert compare_kernels(plain, work_of(linear("head.proj_out"))) == ()
    assert len(compare_kernels(plain, work_of(linear("head.proj_out", rows=7)))) == 1
    pair = [("float", (6,))] * 2
    add, mul = (operator(op, "head.node", pair, pair[:1]) for op in ("Add", "Mul"))
    assert len(compare_kernels(work_of(add), work_of(mul))) == 1


@pytest.mark.parametrize(
    "odd",
    [
        operator("Gemm", "n", [("float", (6, 16))], [("float", (7, 16))]),
        operator("Gemm", "n", [], [("float", (7, 16))]),
        operator("Gemm", "n", [("float", (8, 8))] * 2, [("float", (8, 8))]),  # W, or C beside it
        operator("MultiHeadAttention", "n", QKV[:2], [("float", (2, 6, 4))]),
        operator("MultiHeadAttention", "n", [QKV[0], QKV[0], QKV[2]], [("float", (2, 6, 4))]),
        operator("QLinearMatMul", "n", QKV, QKV[:1]),
        operator("FusedConv", "n", QKV, QKV[:1]),
    ],
    ids=lambda event: event["args"]["op_name"],
)
def test_what_it_multiplies_must_be_known(odd: dict[str, Any]) -> None:
    with pytest.raises(EngineError, match=r"operator n .* multiplies isn't known"):
        work_of(odd)


def damage(**changes: Any) -> str:
    events = json.loads(to_profile(*FORWARD))
    next(one for one in events if one["name"].startswith("head.proj_out")).update(changes)
    return json.dumps(events)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("{}", "valid list"),
        ("[]", "holds no forward"),
        ("[" * 5000, "recursion"),
        (to_profile(), "ran no operators"),
        (to_profile(*FORWARD).replace('"dur": 1000', '"dur": NaN'), "NaN is no JSON number"),
        (to_profile(*FORWARD).replace('"dur": 1000', '"dur": -1'), "greater than or equal to 0"),
        (to_profile(*FORWARD).replace('"dur": 1000', '"dur": 1.5'), "valid integer"),
        (to_profile(*FORWARD).replace('"cat": "Node"', '"cat": "Node", "cat": "Node"'), "twice"),
        (to_profile(*FORWARD).replace("float16", "float8"), "operand of 'float8'"),
        (damage(args={}), "op_name: Field required"),
        (damage(args={"op_name": "Add", "input_type_shape": [{}], "output_type_shape": []}),
         "at least 1 item"),
        (damage(args={"op_name": "Add", "input_type_shape": [{"float": [-1]}],
                      "output_type_shape": []}), "greater than or equal to 0"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused_by_its_reason(text: str, why: str) -> None:
    with pytest.raises(EngineError, match=f"an engine: its profile can't be read: .*{why}"):
        read_profile(text, "an engine")


@given(at=st.integers(0, 1 << 12), new=st.text(max_size=4))
def test_damage_is_read_or_refused_and_never_a_traceback(at: int, new: str) -> None:
    text = to_profile(*FORWARD)
    at %= len(text)
    with contextlib.suppress(EngineError):
        for one in examine(read_profile(text[:at] + new + text[at + len(new) :], "x").kernels):
            assert one.flops >= 0
            assert one.kernel.bytes >= 0
