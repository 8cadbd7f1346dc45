"""TensorRT's own account of an engine becomes kernels, or a clear refusal."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from inspected import account, layer, linear

from wanrt.errors import EngineError
from wanrt.explain.layers import read_layers
from wanrt.explain.work import Work, examine, sum_by_part

HEADS = [("q", "Half", (2, 6, 8)), ("k", "Half", (2, 8, 6)), ("v", "Half", (2, 6, 8))]
GEMM = 2 * 6 * 16 * 24
GEMM_BYTES = 2 * (6 * 16 + 24 * 16 + 6 * 24) + 2 * 4


def examined(folder: Path, *layers: dict[str, Any]) -> tuple[Work, ...]:
    path = folder / "layers.json"
    path.write_text(account(*layers))
    return examine(read_layers(path))


@pytest.mark.parametrize("key", ["Format/Datatype", "DataType"])
def test_bytes_flops_and_parts_are_those_of_the_shapes(tmp_path: Path, key: str) -> None:
    found = examined(
        tmp_path,
        linear(key),
        layer("kgen", "_gemm_mha_v2_myl0_2", HEADS, [("o", "Half", (2, 6, 8))],
              ["blocks.0.attn1.attention"], key),
        layer("kgen", "__myl_CastMul_myl0_3", [("o", "Half", (2, 6, 8))],
              [("z", "Float", (2, 6, 8))], ["blocks.0.mul"], key),
        layer("NoOp", "reshape", [("z", "Float", (96,))], [("u", "Float", (2, 48))], (), key),
        layer("signal", "signal_1", [], [], (), key),
    )  # fmt: skip
    assert {part: (one.moved, one.flops) for part, one in sum_by_part(found).items()} == {
        "self_attention_linear": (GEMM_BYTES, GEMM),
        "self_attention": (2 * 4 * 96, 2 * 2 * 2 * 6 * 6 * 8),
        "elementwise": (6 * 96, 0),
    }
    assert [one.dtype for one in found] == ["fp16", "fp16", None, None]
    assert found[0].label == "blocks.0.attn1.to_q"


def test_a_weight_counts_either_way_round(tmp_path: Path) -> None:
    inputs = linear()["Inputs"]
    turned = [inputs[0], {**inputs[1], "Dimensions": [16, 24]}]
    (work,) = examined(tmp_path, linear(Inputs=turned))
    assert work.flops == GEMM


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "Expecting value"),
        ("[" * 5000, "recursion"),
        ('{"network": {}}', "engine: Field required"),
        ('{"engine": null}', "gave no account"),
        ('{"engine": {"Layers": []}}', "lists no kernels"),
        ('{"engine": {"Layers": ["named alone"]}}', "valid dictionary"),
        (account(linear(Outputs=[])), "layer 'to_q_myl0_1' has no output"),
        (account(linear(StreamId="0")), "StreamId: Input should be a valid integer"),
        (account(linear()).replace('"Half"', '"N/A due to dynamic shapes"'), "dynamic shapes"),
        (account(linear()).replace("[6, 16]", "[-1, 16]"), r"dimensions \[-1, 16\]"),
        (account(linear()).replace('"Dimensions"', '"Dims"'), "Dimensions: Field required"),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_reason(tmp_path: Path, text: str, why: str) -> None:
    path = tmp_path / "layers.json"
    path.write_text(text)
    with pytest.raises(EngineError, match=why):
        read_layers(path)


def test_what_a_gemm_multiplies_must_be_known(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match="multiplies isn't known"):
        examined(tmp_path, linear(Inputs=linear()["Inputs"][:1]))


@given(data=st.data())
def test_a_damaged_account_is_read_or_refused(tmp_path_factory: Any, data: st.DataObject) -> None:
    text = account(linear(), linear("DataType"))
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    value = data.draw(st.sampled_from(["", "0", "-1", "null", '"', "[", "{}", "1e999", "\\ud800"]))
    path = tmp_path_factory.mktemp("fuzz") / "layers.json"
    path.write_text(text[:start] + value + text[end:])
    with contextlib.suppress(EngineError):
        examine(read_layers(path))


def test_every_value_is_typed(tmp_path: Path) -> None:
    for key in linear():
        values: tuple[Any, ...] = (None, 1.5, {"a": 1}, [[]])
        for value in values:
            path = tmp_path / "layers.json"
            path.write_text(account({**linear(), key: value}))
            with contextlib.suppress(EngineError):
                examine(read_layers(path))
