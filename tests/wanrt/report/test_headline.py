"""The sentence that answers what LoRA costs, for every kind of bench."""

from __future__ import annotations

from dataclasses import replace

import pytest
from benches import COMPILED, FULL, MERGED, SEPARATE, UNRESOLVED, bench, group, study, unmeasured

from wanrt.report.headline import headline, headlines, summary_lines
from wanrt.results.values import Ratio

SLOW = "separate r32 runs at 0.987 x the full fine-tune, 95 % interval 0.981 to 0.992"
SENTENCES = {
    "slower": (group(FULL, SEPARATE), f"{SLOW} [random weights]"),
    "with merged": (
        group(FULL, MERGED, SEPARATE),
        f"{SLOW}; merged r32 shows no measurable difference [random weights]",
    ),
    "all merged": (
        group(FULL, MERGED, replace(MERGED, label="merged r8", rank=8)),
        "merged shows no measurable difference [random weights]",
    ),
    "no difference": (
        group(FULL, MERGED, replace(SEPARATE, ratio=MERGED.ratio)),
        "separate r32 shows no measurable difference to the full fine-tune; "
        "merged r32 shows no measurable difference [random weights]",
    ),
    "real and verified": (
        group(*(replace(one, random_weights=False) for one in (FULL, SEPARATE))),
        SLOW,
    ),
    "some unverified": (
        group(FULL, replace(SEPARATE, verified=False)),
        "separate r32 [random weights, unverified] runs at 0.987 x the full fine-tune, "
        "95 % interval 0.981 to 0.992",
    ),
    "unresolved": (group(FULL, UNRESOLVED), "separate r32 stays unresolved [random weights]"),
    "a rival": (
        group(FULL, COMPILED),
        "torch-compile runs at 0.909 x the full fine-tune, 95 % interval 0.906 to 0.911 "
        "[random weights]",
    ),
    "many": (
        study(),
        "separate runs at 0.979 x the full fine-tune (r128, 95 % interval 0.974 to 0.985) to "
        "0.991 x (r8, 0.986 to 0.996); swappable at 0.966 x (r128, 0.959 to 0.971) to 0.972 x "
        "(r8, 0.966 to 0.977); merged shows no measurable difference; torch-compile runs at "
        "0.909 x the full fine-tune, 95 % interval 0.906 to 0.911; torch-eager at 0.781 x, "
        "0.776 to 0.785 [random weights]",
    ),
    "no baseline": (
        group(replace(SEPARATE, ratio=None, baseline=None)),
        "separate r32 runs at 13.40 k tokens per second, no ratios: no `full` engine was measured "
        "beside it [random weights]",
    ),
    "one alone": (
        group(FULL),
        "full runs at 13.59 k tokens per second, nothing was compared with it [random weights]",
    ),
    "nothing": (
        group(unmeasured("separate r8", "no"), replace(FULL, forwards=(), failed="x", ratio=None)),
        "nothing was measured: 1 skipped, 1 failed",
    ),
}


@pytest.mark.parametrize("case", SENTENCES)
def test_the_headline_answers_in_words_with_numbers(case: str) -> None:
    found, sentence = SENTENCES[case]
    assert headline(found) == sentence


def test_sentences_of_a_terminal_say_random_weights_each() -> None:
    assert all(line.endswith("[random weights]") for line in headlines(study()))
    assert headlines(group(FULL)) == []
    assert summary_lines(bench()) == ["nothing was measured: no engine could be read"]


def test_an_interval_that_excludes_one_never_reads_as_one() -> None:
    near = replace(SEPARATE, ratio=Ratio(0.9998, 0.9997, 0.99992, 3, 36, 0.001, "slower"))
    assert "0.9998 x the full fine-tune, 95 % interval 0.9997 to 0.9999" in headline(
        group(FULL, near)
    )
