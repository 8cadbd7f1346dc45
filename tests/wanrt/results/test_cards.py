"""Benches of several cards as one result, against numbers worked by hand and simulated cards."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from benches import bench, group, row
from scipy import stats as scipy_stats

from wanrt.errors import ResultsError
from wanrt.results.cards import Combined, CombinedRow, combine_cards
from wanrt.results.result import BenchResult, CandidateResult
from wanrt.results.values import Advice

FULL = row("full", "full", None, (1.0, 1.0, 1.0), "baseline", loads=2, rounds=1)


def of(label: str, value: float, **fields: Any) -> CandidateResult:
    """Return a candidate that one card found so fast, cheaply."""
    mode = "merged" if label.startswith("merged") else "separate"
    ends = (value, value - 0.002, value + 0.002)
    return replace(row(label, mode, 32, ends, "same", loads=2, rounds=1), **fields)  # type: ignore[arg-type]


def again(value: float) -> CandidateResult:
    """Return the A/A that one card found."""
    return replace(of("full A/A", value), mode="full", rank=None, control=True)


def card(number: int, *rows: CandidateResult, **fields: Any) -> tuple[str, BenchResult]:
    """Return a card's bench of `full` and other rows."""
    ours = {"gpu_uuid": f"GPU-{number:08d}-aaaa", "gpu_power_limit_w": 700.0}
    machine = ours | fields.pop("machine", {})
    result = bench(group(FULL, *rows, band=None), machine=machine)
    return f"{number}.json", replace(result, **fields)


def combine(values: Sequence[float], *others: Callable[[int], CandidateResult]) -> Combined:
    """Combine cards that found these ratios of one candidate."""
    return combine_cards(
        [
            card(n, of("separate r32", value), *(other(n) for other in others))
            for n, value in enumerate(values)
        ]
    )


def only(combined: Combined, label: str = "separate r32") -> CombinedRow:
    return next(r for g in combined.groups for r in g.rows if r.row.label == label)


def test_three_cards_by_hand() -> None:
    # logs -0.03, -0.02, -0.01: mean -0.02, sd 0.01; Student's 97.5 % of 2 is 4.30265, so the mean
    # is within 4.30265 x 0.01 / sqrt(3) = 0.024841, the next card within 0.0430265 sqrt(4 / 3)
    found = only(combine([math.exp(-0.03), math.exp(-0.02), math.exp(-0.01)]))
    ratio = found.row.ratio
    assert ratio is not None
    assert ratio.value == pytest.approx(math.exp(-0.02))
    ends = (math.exp(-0.02 - 0.024841), math.exp(-0.02 + 0.024841))
    assert (ratio.low, ratio.high) == pytest.approx(ends, rel=1e-5)
    assert found.spread == pytest.approx(0.01)
    assert found.ahead == pytest.approx(
        (math.exp(-0.02 - 0.049683), math.exp(-0.02 + 0.049683)), rel=1e-5
    )
    # t = 0.02 / (0.01 / sqrt(3)) = 3.4641 of 2 degrees: p = 1 - t / sqrt(t^2 + 2)
    assert ratio.p == pytest.approx(1 - math.sqrt(12 / 14))
    assert ratio.verdict == "same"
    assert (found.counted, ratio.loads) == (3, 6)


def test_two_cards_have_no_interval() -> None:
    combined = combine([0.98, 0.99])
    found = only(combined)
    assert not combined.pooled
    assert found.row.ratio is not None
    assert (found.row.ratio.low, found.row.ratio.p, found.spread, found.ahead) == (None,) * 4
    assert found.row.ratio.verdict == "unresolved"
    assert [own.ratio.value for own in found.cards if own.ratio] == [0.98, 0.99]


def test_a_claim_is_beyond_the_controls_of_every_card() -> None:
    values = [0.9800, 0.9801, 0.9799, 0.9800]
    assert _verdict(combine(values, lambda _: again(0.999))) == "slower"
    assert _verdict(combine(values, lambda n: again(0.979 if n == 2 else 0.999))) == "same"
    merged = combine(values, lambda n: of("merged r32", 0.979 if n == 1 else 1.0))
    assert _verdict(merged) == "same"
    assert only(merged).band == (0.979, 1.0)
    assert only(merged, "merged r32").band is None  # held against A/A alone, and there is none


def test_p_values_are_corrected_for_all_candidates() -> None:
    # alone p = 0.03 or so, which of three candidates is three times as much
    logs = np.array([-0.010, -0.014, -0.006, -0.010, -0.003])
    values = np.exp(logs).tolist()
    alone = scipy_stats.ttest_1samp(logs, 0).pvalue
    assert _p(combine(values)) == pytest.approx(alone)
    noise = [0.999, 1.001, 1.002, 0.9985, 1.0]
    more = [lambda n: of("separate r8", noise[n]), lambda n: of("separate r16", noise[-n])]
    assert _p(combine(values, *more)) == pytest.approx(3 * alone)


def test_what_a_card_lacks_has_fewer_cards() -> None:
    failed = of("separate r32", 1.0, ratio=None, forwards=(), failed="out of memory", baseline=None)
    cards = [card(n, of("separate r32", 0.98)) for n in range(3)]
    combined = combine_cards([*cards, card(9, failed)])
    found = only(combined)
    assert (found.counted, len(found.cards)) == (3, 4)
    assert combined.groups[0].notes == ("GPU-00000009: separate r32 failed: out of memory",)
    few = only(combine_cards([*cards[:2], card(9, failed)]))
    assert few.row.ratio is not None
    assert (few.counted, few.row.ratio.low) == (2, None)


def test_what_benches_warned_of_and_where_hosts_differ_is_said() -> None:
    hot = of("separate r32", 0.98, advice=(Advice("throttled", "", ""),))
    cards = [card(0, of("separate r32", 0.98)), card(1, hot)]
    cards.append(card(2, of("separate r32", 0.98), machine={"processor": "Other CPU"}))
    combined = combine_cards(cards)
    assert combined.groups[0].notes == ("GPU-00000001: warned of throttled",)
    assert combined.notes == (
        "GPU-00000002: another processor than GPU-00000000: Other CPU, not Fake CPU",
    )


NO_CARD = {"gpu": None, "driver": None, "gpu_uuid": None, "gpu_power_limit_w": None}


def test_machines_that_nothing_tells_apart_are_not_pooled() -> None:
    cards = [
        card(n, of("separate r32", 0.98), machine=NO_CARD, started=f"2026-11-2{n}")
        for n in range(4)
    ]
    combined = combine_cards(cards)
    assert not combined.pooled
    assert [one.name for one in combined.cards] == ["0.json", "1.json", "2.json", "3.json"]
    assert "may be several benches of one" in combined.notes[0]
    other = card(9, of("separate r32", 0.98), machine=NO_CARD | {"processor": "Other CPU"})
    with pytest.raises(ResultsError, match="another processor"):
        combine_cards([*cards, other])


def _changed(**fields: Any) -> tuple[str, BenchResult]:
    return card(1, of("separate r32", 0.98), **fields)


REFUSED: dict[str, tuple[tuple[str, BenchResult], str]] = {
    "one card twice": (
        ("b.json", card(0, of("separate r32", 0.97))[1]),
        "0.json and b.json are of one card, GPU-00000000-aaaa: benches of one card aren't pooled",
    ),
    "another driver": (
        _changed(machine={"driver": "9"}), "1.json ran with another driver than 0.json: 9, not 580"
    ),
    "another model of card": (_changed(machine={"gpu": "Fake H100"}), "another gpu than 0.json"),
    "a lower power limit": (
        _changed(machine={"gpu_power_limit_w": 350.0}), "gpu_power_limit_w than 0.json: 350.0, not"
    ),
    "another release": (_changed(machine={"wanrt": "9"}), "another wanrt"),
    "other options": (_changed(options={"device": "cuda", "warmup": 3}), "another warmup"),
    "another clock": (_changed(timed="host"), "a forward isn't the same in 0.json and 1.json"),
    "interrupted": (_changed(interrupted=True), "1.json is of an interrupted bench"),
    "a candidate less": (card(1), "1.json lacks what 0.json holds: .*, separate r32 bf16"),
    "a candidate more": (
        card(1, of("separate r32", 0.98), of("separate r8", 0.98)),
        "0.json lacks what 1.json holds: .*, separate r8 bf16",
    ),
    "a candidate twice": (
        card(1, of("separate r32", 0.98), of("separate r32", 0.98)), "separate r32 bf16 .*twice"
    ),
    "another workload": (
        ("1.json", replace(_changed()[1], groups=(group(FULL, workload="9x9x9"),))),
        "1.json lacks what 0.json holds: wan2.1-i2v-14b 832x480x81",
    ),
    "another engine": (
        card(1, of("separate r32", 0.98, identity="x")),
        "separate r32 bf16: the SHA-256 of engine.json differs between 0.json and 1.json",
    ),
    "other layers": (
        card(1, of("separate r32", 0.98, target_set="all")), "target_set differs .*: None, all"
    ),
    "another baseline": (
        card(1, of("separate r32", 0.98, baseline="full refit")), "baseline differs"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_compare_is_refused_by_name(case: str) -> None:
    other, message = REFUSED[case]
    with pytest.raises(ResultsError, match=message) as error:
        combine_cards([card(0, of("separate r32", 0.98)), other])
    assert error.value.hint


def test_the_interval_covers_as_often_as_it_says() -> None:
    """Cards of a model, each with a ratio of its own and its bench's error: 3 to 6 at a time."""
    rng = np.random.default_rng(0)
    model, covered, ahead = of("separate r32", 1.0), [], []
    assert model.ratio is not None
    for cards in (3, 4, 5, 6):
        spread, noise = (rng.normal(0, sd, (cards + 1, 150)) for sd in (0.003, 0.0015))
        *measured, following = np.exp(spread + noise - 0.02).tolist()
        benches = [
            card(n, *(
                replace(model, label=f"{i}", ratio=replace(model.ratio, value=value))
                for i, value in enumerate(values)
            ))
            for n, values in enumerate(measured)
        ]  # fmt: skip
        (found,) = combine_cards(benches).groups
        for own, after in zip(found.rows[1:], following, strict=True):
            ratio = own.row.ratio
            assert ratio is not None
            assert ratio.low is not None
            assert ratio.high is not None
            assert own.ahead is not None
            covered.append(ratio.low <= math.exp(-0.02) <= ratio.high)
            ahead.append(own.ahead[0] <= after <= own.ahead[1])
    # 95 % within four standard errors of 600
    assert 0.914 <= np.mean(covered) <= 0.986
    assert 0.914 <= np.mean(ahead) <= 0.986


def _verdict(combined: Combined) -> str:
    ratio = only(combined).row.ratio
    assert ratio is not None
    return ratio.verdict


def _p(combined: Combined) -> float | None:
    ratio = only(combined).row.ratio
    assert ratio is not None
    return ratio.p
