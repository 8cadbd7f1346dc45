"""Names that come from other files' names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanexport.storage.names import safe_name


@pytest.mark.parametrize("name", ["style", "my style (v2)", "スタイル", "a.b_c-1", "é" * 50])
def test_what_is_safe_stays(name: str) -> None:
    assert safe_name(name) == name


@pytest.mark.parametrize(
    "name", ["a\nb", "a\x1b[31mb", "a\u202eb", "a\\b", "a/b", "\udc80", "é" * 51, "x" * 101]
)
def test_what_is_not_is_changed(name: str) -> None:
    made = safe_name(name)
    assert made.isprintable()
    assert len(made.encode()) <= 100
    assert not set(made) & set("/\\")


@given(st.text(), st.text())
def test_no_two_names_become_one(one: str, other: str) -> None:
    assert (safe_name(one) == safe_name(other)) == (one == other)
