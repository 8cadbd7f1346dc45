"""The sentence that answers what LoRA costs, for every kind of bench."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benches import COMPILED, FULL, MERGED, SEPARATE, UNRESOLVED, bench, group, study, unmeasured

from wanrt.report.headline import sentences, summary_lines
from wanrt.results.values import Ratio

R = " [random weights]"
SLOW = "A separate adapter of rank 32 costs 1.3 % of the speed (0.8 to 1.9 %)"
FREE = "A merged adapter of rank 32 costs nothing measurable"
LESS = replace(SEPARATE, rank=8, label="separate r8", ratio=MERGED.ratio)
FASTER = Ratio(1.02, 1.01, 1.03, 3, 36, 0.001, "faster")
SENTENCES = {
    "slower": (group(FULL, SEPARATE), [SLOW + R]),
    "with merged": (group(FULL, MERGED, SEPARATE), [SLOW + R, FREE + R]),
    "all merged": (
        group(FULL, MERGED, replace(MERGED, label="merged r8", rank=8)),
        ["A merged adapter costs nothing measurable" + R],
    ),
    "no difference": (
        group(FULL, replace(SEPARATE, ratio=MERGED.ratio)),
        ["A separate adapter of rank 32 costs nothing measurable" + R],
    ),
    "a difference at one of two ranks": (
        group(FULL, LESS, SEPARATE),
        ["A separate adapter costs up to 1.3 % (rank 32) of the speed" + R],
    ),
    "one of two unresolved": (
        group(FULL, LESS, UNRESOLVED),
        ["A separate adapter costs nothing measurable (1 of 2 couldn't be resolved)" + R],
    ),
    "faster": (
        group(FULL, replace(SEPARATE, ratio=FASTER)),
        ["A separate adapter of rank 32 gains 2.0 % of the speed (1.0 to 3.0 %)" + R],
    ),
    "of one rank, told apart by their names": (
        group(FULL, SEPARATE, replace(SEPARATE, label="separate r32 b", ratio=COMPILED.ratio)),
        ["A separate adapter costs 1.3 % (r32) to 9.1 % (r32 b) of the speed" + R],
    ),
    "on other layers, too": (
        group(FULL, SEPARATE, replace(SEPARATE, label="separate r32 all", target_set="all",
                                      ratio=COMPILED.ratio)),
        [SLOW + "; a separate adapter of rank 32 on all linear layers costs 9.1 % of the speed "
         "(8.9 to 9.4 %)" + R],
    ),
    "on other layers alone": (
        group(FULL, replace(SEPARATE, label="separate r32", target_set="ffn")),
        ["A separate adapter of rank 32 on ffn costs 1.3 % of the speed (0.8 to 1.9 %)" + R],
    ),
    "real and verified": (
        group(*(replace(one, random_weights=False) for one in (FULL, SEPARATE))), [SLOW],
    ),
    "some unverified": (
        group(FULL, replace(SEPARATE, verified=False)), [SLOW + " [random weights, unverified]"],
    ),
    "unresolved": (
        group(FULL, UNRESOLVED),
        ["What a separate adapter of rank 32 costs couldn't be resolved" + R],
    ),
    "a rival": (
        group(FULL, COMPILED),
        ["torch-compile is 9.1 % slower than the full fine-tune (8.9 to 9.4 %)" + R],
    ),
    "many": (
        study(),
        [
            "A separate adapter costs 0.9 % (rank 8) to 2.1 % (rank 128) of the speed" + R,
            "A swappable adapter costs 2.8 % (rank 8) to 3.4 % (rank 128) of the speed" + R,
            "A merged adapter costs nothing measurable" + R,
            "torch-compile is 9.1 % slower than the full fine-tune (8.9 to 9.4 %)" + R,
            "torch-eager is 21.9 % slower than the full fine-tune (21.5 to 22.4 %)" + R,
        ],
    ),
    "no baseline": (
        group(replace(SEPARATE, ratio=None, baseline=None)),
        ["separate r32 runs at 13.40 k tokens per second, no ratios: no `full` engine was measured "
         "beside it" + R],
    ),
    "one alone": (
        group(FULL),
        ["full runs at 13.59 k tokens per second, nothing was compared with it" + R],
    ),
    "nothing": (
        group(unmeasured("separate r8", "no"), replace(FULL, forwards=(), failed="x", ratio=None)),
        ["nothing was measured: 1 skipped, 1 failed"],
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SENTENCES)
def test_short_sentences_answer_with_numbers(case: str) -> None:
    found, expected = SENTENCES[case]
    assert sentences(found) == expected
    assert summary_lines(bench(found)) == expected[:1]


def test_each_of_several_groups_is_named() -> None:
    other = group(FULL, MERGED, model="wan2.1-t2v-1.3b")
    assert summary_lines(bench(study(), other)) == [
        f"wan2.1-i2v-14b 832x480x81: {sentences(study())[0]}",
        f"wan2.1-t2v-1.3b 832x480x81: {FREE}{R}",
    ]
    assert summary_lines(bench()) == ["nothing was measured: no engine could be read"]


def test_an_interval_that_excludes_one_never_reads_as_none() -> None:
    near = replace(SEPARATE, ratio=Ratio(0.9998, 0.9997, 0.99992, 3, 36, 0.001, "slower"))
    assert "costs 0.02 % of the speed (0.01 to 0.03 %)" in sentences(group(FULL, near))[0]
