"""Every command on a page is run as written, or read by the program it is for; links resolve."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from pages import (
    PAGES,
    ROOT,
    Shown,
    check_command,
    flags,
    inline_code,
    make_targets,
    name_page,
    shown_commands,
)

from wanexport.lora.random_adapter import seeded_adapter
from wanexport.lora.targets import select_modules
from wanexport.model.config import DEMO, load_config
from wanexport.model.names import module_shapes

SHOWN = [command for page in PAGES for command in shown_commands(page)]
FOREIGN = {"--help", "--extra-index-url", "--builderOptimizationLevel", "--memPoolSize",
           "--maxAuxStreams", "--hardwareCompatibilityLevel", "--versionCompatible",
           "--allowWeightStreaming", "--ignore-external-data", "--cflags", "--libs",
           "--work", "--hypothesis-profile"}  # fmt: skip
"""Flags of other programs, and trtexec's spelling of ours."""


@pytest.mark.parametrize("command", SHOWN, ids=str)
def test_command_is_understood(command: Shown) -> None:
    check_command(command.text)


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_flags_in_the_text_exist(page: Path) -> None:
    unknown = set()
    for code in inline_code(page):
        program, _, rest = code.partition(" ")
        known = flags(program) if program in ("wanexport", "wanrt") else flags("wanexport", "wanrt")
        named = re.findall(r"(?<![\w-])--[a-zA-Z][\w-]*", rest or code)
        unknown |= {flag for flag in named if flag not in known | FOREIGN}
        if program == "make" and re.fullmatch(r"[a-z-]+", rest):
            assert rest in make_targets(), code
    assert not unknown


def test_make_runs_what_the_pages_ask_of_it() -> None:
    targets = sorted({shown.text for shown in SHOWN if shown.text.startswith("make ")})
    assert "make demo" in targets
    for target in targets:
        argv = [*target.split(), "-n"]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def done() -> dict[str, str]:
    """What commands printed that have run already: pages share their engines."""
    return {}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a LoRA file, in which the pages' commands run one page after the other."""
    place = tmp_path_factory.mktemp("pages")
    arch = load_config(DEMO).architecture
    lora = place / "my_lora.safetensors"
    seeded_adapter(lora, module_shapes(arch), select_modules(arch, "cross-attention"), 16, seed=7)
    return place


@pytest.fixture(scope="module", params=PAGES, ids=name_page)
def outputs(request: pytest.FixtureRequest, place: Path, done: dict[str, str]) -> dict[str, str]:
    """What a page's commands printed, by their first two words."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONWARNINGS": "", "COLUMNS": "100"}
    printed = {}
    for shown in shown_commands(request.param):
        if shown.is_run and not shown.text.startswith("make "):
            if shown.text not in done:
                done[shown.text] = _run(shown, place, environment)
            printed[" ".join(shown.text.split()[:2])] = done[shown.text]
    return printed


def _run(shown: Shown, place: Path, environment: dict[str, str]) -> str:
    ended = subprocess.run(
        ["bash", "-euc", shown.text],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert ended.returncode == 0, f"{shown}\n{ended.stderr}"
    return ended.stdout


def test_commands_run_as_written(outputs: dict[str, str], place: Path) -> None:
    for command, sign in (
        ("wanexport estimate", "at best on "),
        ("wanrt info", "rank 16"),
        ("wanrt bench", "random weights"),
        ("wanrt report", "[random weights]"),
    ):
        assert sign in outputs.get(command, sign)
    if "wanrt report" in outputs:
        assert "<svg" in (place / "report.html").read_text()


@pytest.mark.parametrize("page", PAGES, ids=name_page)
def test_python_compiles(page: Path) -> None:
    for block in re.findall(
        r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.M | re.S
    ):
        compile(block, name_page(page), "exec")


LINKS = [
    (page, link.partition("#")[0])
    for page in PAGES
    for link in sorted(set(re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))))
    if not re.match(r"https?:|#", link)
]


@pytest.mark.parametrize(
    ("page", "link"), LINKS, ids=[f"{name_page(p)}: {link}" for p, link in LINKS]
)
def test_links_resolve(page: Path, link: str) -> None:
    assert (page.parent / link).exists()


def test_the_index_lists_every_page() -> None:
    index = (ROOT / "docs/README.md").read_text(encoding="utf-8")
    pages = {page.name for page in ROOT.glob("docs/*.md")} - {"README.md"}
    assert pages <= set(re.findall(r"\]\(([\w-]+\.md)\)", index))
