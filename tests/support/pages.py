"""The commands and flags that the project's pages show, and whether the apps understand them.

A block fenced as `sh` is run as written by the tests, one fenced as `sh parsed` needs a GPU, a
network or minutes and is read alone, and of a block without a language the lines behind `$` are.
"""

from __future__ import annotations

import argparse
import re
import shlex
import tomllib
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from typer.main import get_command

from wanexport.cli.main import app as wanexport_app
from wanrt.cli.main import app as wanrt_app

ROOT = Path(__file__).parents[2]
PAGES = (
    ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "ARCHITECTURE.md",
    ROOT / "engines/README.md", ROOT / "runtime/cpp/README.md", *sorted(ROOT.glob("docs/*.md")),
    *sorted(ROOT.glob("benchmarks/results/*.md")),
)  # fmt: skip
BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
OTHERS = {
    "cmake",
    "cp",
    "wanrt-host",
    "wanrt-video",
    "python",
}  # whose arguments nothing here can read
APART = {"netron"}  # serves until it is stopped; a test of its own runs it
APPS: dict[str, Any] = {"wanexport": get_command(wanexport_app), "wanrt": get_command(wanrt_app)}


@dataclass(frozen=True)
class Shown:
    """A command of a page."""

    page: Path
    text: str
    is_run: bool

    def __str__(self) -> str:
        return f"{name_page(self.page)}: {self.text}"


def name_page(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def shown_commands(page: Path) -> list[Shown]:
    """Return a page's commands in order, those of several lines as one."""
    commands = []
    for fence, block in BLOCK.findall(page.read_text(encoding="utf-8")):
        lines = block.replace("\\\n", " ").splitlines()
        if fence.split(" ")[0] != "sh":
            lines = [line[2:] for line in lines if not fence and line.startswith("$ ")]
        texts = (line.partition("  #")[0].strip() for line in lines)
        commands += [
            Shown(page, " ".join(text.split()), fence == "sh")
            for text in texts
            if text and not text.startswith("#")
        ]
    return commands


def inline_code(page: Path) -> list[str]:
    """Return what stands between backticks outside of blocks."""
    text = BLOCK.sub("", page.read_text(encoding="utf-8"))
    return [" ".join(code.split()) for code in re.findall(r"`([^`]+)`", text)]


def check_command(text: str) -> None:
    """Fail unless a command's program would take its arguments.

    Raises:
        Exception: the program's own account of what is wrong.
    """
    program, *arguments = shlex.split(text, comments=True)
    while "=" in program:  # NAME=value before the command
        program, *arguments = arguments
    if program in APPS:
        _check_ours(APPS[program], arguments)
    elif program == "pip":
        _check_pip(arguments)
    elif program == "make":
        assert {word for word in arguments if "=" not in word} <= make_targets(), text
    elif program == "hf":
        _check_hf(arguments)
    elif program == "polygraphy":
        _check_polygraphy(arguments)
    else:
        assert program in OTHERS | APART, f"{text}: no test knows how to check this"


def flags(*programs: str) -> set[str]:
    """Return every flag of the programs' commands."""
    return {
        flag
        for program in programs
        for command in (APPS[program], *APPS[program].commands.values())
        for parameter in command.params
        for flag in (*parameter.opts, *parameter.secondary_opts)
    }


def make_targets() -> set[str]:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))


def _check_ours(program: Any, arguments: list[str]) -> None:
    if arguments[0].startswith("-"):
        assert arguments[0] in {flag for one in program.params for flag in one.opts} | {"--help"}
        return
    _parse(program, arguments)


def _parse(program: Any, arguments: list[str]) -> None:
    with program.make_context("", [], resilient_parsing=True) as group:
        name, command, rest = program.resolve_command(group, arguments)
        command.make_context(name, rest, parent=group)


def _check_hf(arguments: list[str]) -> None:
    from huggingface_hub.cli.hf import app

    _parse(app, arguments)


def _check_polygraphy(arguments: list[str]) -> None:
    from polygraphy.tools.registry import TOOL_REGISTRY

    parser = argparse.ArgumentParser()
    subparsers = parser.add_subparsers()
    with warnings.catch_warnings(action="ignore"):  # it lists plugins in Python's older way
        for tool in TOOL_REGISTRY:
            tool.setup_parser(subparsers)
    parser.parse_args(arguments)


def _check_pip(arguments: list[str]) -> None:
    """Hold `pip install` to the extras that pyproject.toml has."""
    assert arguments[0] == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for argument in arguments[1:]:
        if argument.startswith(("wanexport", ".")):
            requirement = Requirement("wanexport" + argument.removeprefix("wanexport").lstrip("."))
            assert requirement.extras
            assert requirement.extras <= set(project["optional-dependencies"])
