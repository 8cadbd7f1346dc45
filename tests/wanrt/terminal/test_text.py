"""Lines of 79 columns, columns, counted things and names cut short."""

from __future__ import annotations

import pytest

from wanrt.terminal.text import (
    WIDTH,
    columns,
    counted,
    first_and_more,
    first_three,
    group_digits,
    wrap,
)


def test_lines_end_at_spaces_alone() -> None:
    text = "raise --half-width or " * 8
    lines = wrap(text, "    ", first="  ")
    assert max(map(len, lines)) <= WIDTH
    assert lines[0].startswith("  raise")
    assert all(line.startswith("    ") for line in lines[1:])
    assert " ".join(" ".join(lines).split()) == text.strip()


def test_what_a_no_break_space_joins_stays_together() -> None:
    (first, second) = wrap(f"{'x' * 72} random\N{NO-BREAK SPACE}weights")
    assert (first, second) == ("x" * 72, "random weights")


def test_a_path_can_be_left_whole() -> None:
    path = "/" + "long/" * 20
    assert wrap(path, whole_words=True) == [path]
    assert len(wrap(path)) == 2


def test_columns_but_the_first_are_flush_right() -> None:
    assert columns([("engine", "bytes", ""), ("a", "10", "M")]) == [
        "  engine  bytes",
        "  a          10  M",
    ]


def test_things_are_counted() -> None:
    assert [counted(n, "file") for n in (0, 1, 2048)] == ["0 files", "1 file", "2,048 files"]
    assert group_digits(32760) == "32 760"


@pytest.mark.parametrize(
    ("names", "three", "one"),
    [("a", "a", "a"), ("abc", "a, b, c", "a and 2 more"), ("abcd", "a, b, c, ...", "a and 3 more")],
)
def test_names_are_cut_short(names: str, three: str, one: str) -> None:
    assert first_three(list(names)) == three
    assert first_and_more(list(names)) == one
    assert first_and_more(list(names), len(names)) == ", ".join(names)
