"""docs/cli.md is what the commands say now, and both say their version and complete in a shell."""

from __future__ import annotations

import re

import pytest
from cli_reference import render_reference
from commands import wanexport, wanrt
from pages import APPS, ROOT


def test_the_reference_is_current() -> None:
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert page == render_reference(), "docs/cli.md is out of date: run `make docs`"


@pytest.mark.parametrize("program", [wanexport, wanrt], ids=["wanexport", "wanrt"])
def test_both_commands_name_their_version(program: object) -> None:
    outcome = program("--version")  # type: ignore[operator]
    assert outcome.code == 0
    assert outcome.out == "wanexport 0.1.0\n"


@pytest.mark.parametrize("program", APPS)
def test_both_commands_offer_completion(program: str) -> None:
    assert "--install-completion" in {flag for one in APPS[program].params for flag in one.opts}


def test_configurations_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_WANEXPORT_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "wanexport build --config wan2.1-t2v-14b")
    monkeypatch.setenv("COMP_CWORD", "3")
    assert wanexport().out.split() == ["wan2.1-t2v-14b-480p", "wan2.1-t2v-14b-720p"]


@pytest.mark.parametrize(
    ("command", "panels"),
    [
        ("wanexport build", ["Sources", "Model and size", "Output", "TensorRT", "Options"]),
        ("wanrt bench", ["Arguments", "Running", "Measuring", "Results", "Options"]),
    ],
)
def test_help_groups_options(command: str, panels: list[str]) -> None:
    program, name = command.split()
    out = {"wanexport": wanexport, "wanrt": wanrt}[program](name, "--help").out
    assert [line[:-1] for line in out.splitlines() if line[:1].isalpha() and line[-1] == ":"] == (
        panels
    )


@pytest.mark.parametrize("program", APPS)
def test_every_option_has_a_sentence_that_stands_alone(program: str) -> None:
    for name, command in APPS[program].commands.items():
        for parameter in command.params:
            text = getattr(parameter, "help", None) or ""
            assert re.fullmatch(r"[A-Z].*[a-z)].*[.\]]", text, re.DOTALL), (name, parameter.name)
            assert len(text.split()) >= 2, (name, parameter.name)
