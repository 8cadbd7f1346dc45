"""CSV, Markdown and the page show names as text: no formula, no markup, nothing obeyed."""

from __future__ import annotations

import csv
import io

import pytest
from benches import FULL, bench, group, row

from wanrt.report.csv import to_csv
from wanrt.report.markdown import to_markdown
from wanrt.results.result import BenchResult


def result_of(label: str) -> BenchResult:
    return bench(group(FULL, row(label, "separate", 32, (0.98, 0.97, 0.99))))


@pytest.mark.parametrize(
    ("label", "cell"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"),
        ("+1", "'+1"),
        ("-1", "'-1"),
        (" @SUM(A1)", "' @SUM(A1)"),
        ("\t=1", "\\t=1"),
        ("a\x1b[2J\u202e", "a\\x1b[2J\\u202e"),
        ("separate r32", "separate r32"),
    ],
)
def test_no_cell_is_a_formula(label: str, cell: str) -> None:
    rows = list(csv.DictReader(io.StringIO(to_csv(result_of(label)))))
    assert [one["candidate"] for one in rows] == ["full", cell]
    assert float(rows[1]["ratio"]) == 0.98  # numbers stay numbers


def test_negative_numbers_stay_numbers() -> None:
    one = row("a", "separate", 32, (0.98, 0.97, 0.99), engine="-x")
    found = list(csv.DictReader(io.StringIO(to_csv(bench(group(FULL, one))))))[1]
    assert found["engine"] == "'-x"


@pytest.mark.parametrize(
    ("label", "shown"),
    [
        ("<img src=x>", r"\<img src=x\>"),
        ("[a](http://b)", r"[a\](http://b)"),
        ("*a* `b` _c_ d_e", r"\*a\* \`b\` \_c\_ d_e"),
        ("a|b\\", r"a\|b\\"),
        ("a\nb", "a b"),
        ("a\x1b[2J", r"a\\x1b[2J"),
    ],
)
def test_markdown_shows_names_as_they_are(label: str, shown: str) -> None:
    lines = to_markdown(result_of(label)).splitlines()
    assert any(line.startswith(f"| {shown} |") for line in lines)
