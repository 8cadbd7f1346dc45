"""What is printed shows what files say, and does nothing of it."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import wanrt
from tinyengines import read_raw, write_manifest

from wanrt.errors import ResultsError
from wanrt.terminal.screen import print_line, print_result, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain, é, スタイル, 95\u00a0%", "plain, é, スタイル, 95\u00a0%"),
        ("two\nlines", "two\nlines"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\rb\tc\x07", "a\\rb\\tc\\x07"),
        ("abc\u202egnp", "abc\\u202egnp"),
        ("\udc80", "\\udc80"),
        ("\x9b2J", "\\x9b2J"),
    ],
)
def test_what_a_terminal_obeys_is_written_out(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_an_ascii_stream_takes_everything() -> None:
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="ascii")
    print_line("é \x1b", stream)
    stream.flush()
    assert raw.getvalue() == b"\\xe9 \\x1b\n"


@pytest.mark.system
@pytest.mark.parametrize(
    ("redirection", "says"),
    [("> /dev/full", "No space left on device"), (">&-", "standard output is closed"),
     ("| true", "")],
)  # fmt: skip
def test_a_stream_that_takes_nothing_is_one_line(family: Path, redirection: str, says: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m wanrt info {family}/tiny-full {redirection}"
    found = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env=environment(), check=False
    )
    assert found.returncode == (0 if redirection == "| true" and not found.stderr else 1)
    assert "Traceback" not in found.stderr
    assert says in found.stderr
    assert len(found.stderr.splitlines()) <= 2


def test_what_took_long_is_printed_on_stderr_where_stdout_is_full(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full, monkeypatch.context() as context:
        context.setattr(sys, "stdout", full)
        with pytest.raises(ResultsError, match="No space left on device"):
            print_result("the table\n")
    assert capsys.readouterr().err == "the table\n"


def environment() -> dict[str, str]:
    root = Path(__file__).parents[3]
    paths = os.pathsep.join(str(root / name) for name in ("export", "runtime"))
    return os.environ | {"PYTHONPATH": paths}


def test_an_engine_s_words_are_only_shown(family: Path) -> None:
    engine = family / "tiny-full"
    manifest = read_raw(engine)
    manifest["tools"] = {"\x1b[2Jevil": "1\u202e"}
    write_manifest(engine, manifest)
    outcome = wanrt("info", engine)
    assert outcome.code == 0
    assert "\\x1b[2Jevil 1\\u202e" in outcome.out
    assert outcome.out.replace("\n", "").isprintable()


def test_an_error_stays_one_line(family: Path) -> None:
    engine = family / "tiny-full"
    manifest = read_raw(engine)
    manifest["graphs"]["forward"]["inputs"].append(
        manifest["graphs"]["forward"]["inputs"][0] | {"name": "a\nerror: b"}
    )
    manifest["graphs"]["forward"]["inputs"] *= 2
    write_manifest(engine, manifest)
    outcome = wanrt("info", engine)
    assert outcome.code == 1
    assert len(outcome.err.splitlines()) <= 2
