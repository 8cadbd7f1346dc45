"""Engines of several cards: built, verified as all cards together, compared with one card's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from studies import I2V, SIZE, build

from wanexport.comparison import compare_engines
from wanexport.errors import ConfigError
from wanexport.model.config import Size
from wanexport.tensorrt.settings import PlanSettings
from wanexport.verify.twin import twin_size
from wanrt.backends.load import load_engine
from wanrt.errors import EngineError
from wanrt.manifest.read import read_manifest
from wanrt.terminal.progress import Reporter

BATCH = SIZE.model_copy(update={"batch": 2})
RTX = PlanSettings("tensorrt-rtx", allow_unfused=True)


def test_all_cards_together_are_one_card(fake_builder: Callable[..., None], tmp_path: Path) -> None:
    fake_builder(gpu=None, capability=None, capabilities=["8.9"])
    options: dict[str, Any] = {"tensorrt": RTX, "modes": ("swappable",), "ranks": (2,),
                               "targets": ("all",), "dtype": "fp16"}  # fmt: skip
    (one,), (two,) = (build(tmp_path, cards=cards, **options) for cards in (1, 2))
    manifest = read_manifest(two.path)
    assert manifest.cards == 2
    assert manifest.compared_by["cards"] == "2"
    assert "-cards2-" in manifest.name
    (card,) = (spec for spec in manifest.forward.inputs if spec.role == "card")
    assert (card.dtype, card.shape) == ("fp32", (SIZE.tokens // 2,))
    assert manifest.workloads == read_manifest(one.path).workloads
    assert two.verification is not None
    assert two.verification.error is not None
    found = compare_engines(one.path, two.path, Reporter(quiet=True), blocks=True)
    assert [distance.name for distance in found.distances] == [
        "stem", "blocks.0", "blocks.1", "sample"]  # fmt: skip
    assert all(distance.l2 == 0 for distance in found.distances)
    with pytest.raises(EngineError, match="split over 2 cards"):
        load_engine(two.path)
    (again,) = build(tmp_path, cards=2, **options)
    assert again.target.action == "reuse"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cards": 3}, "choose 2"),
        ({"cards": 2, "tensorrt": None}, "add --backend tensorrt-rtx"),
        ({"cards": 2, "dynamic": True}, "an engine for each size"),
        ({"cards": 2, "size": BATCH}, "leave --batch out"),
        ({"cards": 2, "split": True}, "drop one of the two"),
    ],
    ids=["a number that divides nothing", "ONNX Runtime", "open sizes", "a batch", "two graphs"],
)  # fmt: skip
def test_what_cannot_be_split_is_refused(tmp_path: Path, change: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError) as refused:
        build(tmp_path, **{"modes": ("full",), "tensorrt": RTX, **change})
    assert says in refused.value.hint


def test_a_library_without_exchanges_is_refused(
    fake_builder: Callable[..., None], tmp_path: Path
) -> None:
    fake_builder(library="10.16.1.11")
    settings = replace(RTX, backend="tensorrt")
    with pytest.raises(ConfigError, match=r"here is 10\.16"):
        build(tmp_path, modes=("full",), tensorrt=settings, cards=2)


@pytest.mark.parametrize("cards", [2, 5, 8, 20])
def test_the_twin_s_tokens_are_shared_out(cards: int) -> None:
    for size in (Size(width=832, height=480, frames=81), Size(width=1280, height=720, frames=81)):
        for wide in (I2V, I2V.model_copy(update={"num_attention_heads": 40})):
            twin = twin_size(wide, size, cards)
            assert twin.tokens % cards == 0
            assert 0 < twin.tokens <= 1024
            assert twin_size(wide, twin, cards) == twin
