"""The README is short, answers early, and its links and tables hold."""

from __future__ import annotations

import re
import tomllib

from pages import ROOT, shown_commands

from wanexport.model.config import list_configs

README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = README.splitlines()


def test_it_is_short_and_its_first_command_and_table_come_early() -> None:
    first_command = next(i for i, line in enumerate(LINES, 1) if line.startswith("make demo"))
    first_row = next(i for i, line in enumerate(LINES, 1) if re.match(r"\s+full\s+fp32", line))
    assert first_command <= 10
    assert first_row <= 45
    assert len(LINES) < 200


def test_it_begins_with_the_demo_and_the_tests() -> None:
    commands = [shown.text for shown in shown_commands(ROOT / "README.md")]
    assert commands[:2] == ["make demo", "make test"]


def test_the_citation_is_of_this_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8").splitlines()
    assert f"version: {project['version']}" in citation
    assert f"license: {project['license']}" in citation


def test_every_configuration_and_folder_is_mentioned() -> None:
    for folder in (
        "configs", "docs", "export", "runtime", "engines", "benchmarks", "tests", "tools",
    ):  # fmt: skip
        assert f"`{folder}/`" in README
    assert len(list_configs()) == 12
