"""Sizes as they are shown, and as they are given."""

from __future__ import annotations

import pytest

from wanrt.terminal.units import parse_bytes, show_bytes, show_si


@pytest.mark.parametrize(
    ("size", "shown"),
    [(None, "-"), (0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (450 << 20, "450.0 MiB"),
     (3 << 29, "1.5 GiB"), (2 << 40, "2048.0 GiB")],
)  # fmt: skip
def test_sizes_are_shown_with_one_decimal(size: int | None, shown: str) -> None:
    assert show_bytes(size) == shown


def test_a_column_has_one_unit() -> None:
    assert show_bytes(512, (2.0**20, "MiB")) == "0.0 MiB"


@pytest.mark.parametrize(
    ("text", "size"),
    [("20GiB", 20 << 30), ("1.5 GiB", 3 << 29), ("512MiB", 512 << 20), ("20GB", 20 * 10**9),
     (" 4gib ", 4 << 30)],
)  # fmt: skip
def test_sizes_are_given_with_their_unit(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    "text", ["", " ", "4096", "4.5", "much", "-4GiB", "nanGiB", "infGiB", "4X"]
)
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"unit|byte"):
        parse_bytes(text)


def test_decimal_prefixes() -> None:
    assert [show_si(v, "B") for v in (12, 1234, 16.39e9)] == [
        "12.00 B", "1.234 kB", "16.39 GB"
    ]  # fmt: skip
