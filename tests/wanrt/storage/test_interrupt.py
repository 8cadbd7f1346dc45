"""Signals end a command between steps that belong together, and are never lost in a destructor."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator

import pytest

from wanrt.storage.interrupt import end_like_ctrl_c, uninterrupted

NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in NUMBERS}
    hook = sys.unraisablehook
    for number in NUMBERS:  # a shell's background jobs ignore SIGINT
        signal.signal(number, signal.SIG_DFL)
    end_like_ctrl_c()
    yield
    sys.unraisablehook = hook
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", NUMBERS)
def test_an_interrupt_waits_for_what_belongs_together(number: signal.Signals) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        with uninterrupted():
            signal.raise_signal(number)
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    with uninterrupted():
        done.append("nothing waits any more")


def test_elsewhere_it_comes_at_once() -> None:
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)


class Interrupted:
    def __del__(self) -> None:
        signal.raise_signal(signal.SIGTERM)


def test_an_interrupt_in_a_destructor_is_not_lost(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        Interrupted()
        signal.sigtimedwait([], 5)
    assert capfd.readouterr() == ("", "")
