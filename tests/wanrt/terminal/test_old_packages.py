from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from wanexport.__main__ import main as wanexport
from wanrt.__main__ import main as wanrt
from wanrt.terminal.old_packages import REQUIREMENT, refuse_old_packages

ROOT = Path(__file__).parents[3]
ASKED = ("typer>=0.19", "onnx-ir>=0.2.0; extra == 'export'", "onnxscript>=0.7; extra == \"export\"",
         "onnxruntime>=1.23; extra == 'cpu'", "matplotlib>=3.9; extra == 'report'",
         "torch>=2.9; extra == 'export'")  # fmt: skip

Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Put packages on the path as far as their metadata goes; wanexport asks for ASKED."""

    def put(name: str, version: str, *lines: str) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
        folder.mkdir()
        text = "\n".join(("Metadata-Version: 2.4", f"Name: {name}", f"Version: {version}", *lines))
        (folder / "METADATA").write_text(text + "\n")

    def make(**versions: str) -> Path:
        put("wanexport", "0.1.0", *(f"Requires-Dist: {text}" for text in ASKED))
        for name, version in versions.items():
            put(name.replace("_", "-"), version)
        monkeypatch.syspath_prepend(tmp_path)
        return tmp_path

    return make


@pytest.mark.parametrize(
    "versions",
    [
        {"onnx_ir": "0.2.0", "onnxscript": "0.7"},
        {"onnx_ir": "0.2", "onnxscript": "0.10.0.dev1", "matplotlib": "3.8.9"},
        {"onnx_ir": "1", "torch": "2.9.0a0+50eac811a6.nv25.9"},
        {"onnx_ir": "0.0.0", "onnxscript": "unknown"},
    ],
    ids=["the oldest", "an extra that isn't asked for", "an image's own", "no numbers"],
)
def test_what_is_new_enough_passes(install: Install, versions: dict[str, str]) -> None:
    install(**versions)
    refuse_old_packages("export", "cpu")


def test_every_old_package_is_named_with_the_line_for_pip(
    install: Install, capsys: pytest.CaptureFixture[str]
) -> None:
    install(typer="0.15.4", onnx_ir="0.1.16", onnxscript="0.7.0", onnxruntime="1.22.1")
    with pytest.raises(SystemExit) as stop:
        refuse_old_packages("export")
    assert stop.value.code == 1
    assert capsys.readouterr() == (
        "",
        "error: too old for wanexport: "
        "typer 0.15.4 (needs 0.19 or newer), onnx-ir 0.1.16 (needs 0.2.0 or newer)\n"
        "hint: pip install 'typer>=0.19' 'onnx-ir>=0.2.0'\n",
    )


@pytest.mark.parametrize(
    ("main", "argv", "refused"),
    [
        (wanexport, ["build", "--rank", "8"], "torch 2.8.0"),
        (wanexport, ["estimate", "--compiled"], "torch 2.8.0"),
        (wanexport, ["estimate", "--help"], ""),
        (wanexport, ["env", "--help"], ""),
        (wanrt, ["report", "--help"], "matplotlib 3.8.0"),
        (wanrt, ["run", "--help"], "onnxruntime 1.22.0"),
        (wanrt, ["info", "--help"], ""),
    ],
)
def test_a_command_refuses_what_it_may_load(
    install: Install,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    main: Callable[[], None],
    argv: list[str],
    refused: str,
) -> None:
    install(torch="2.8.0", matplotlib="3.8.0", onnxruntime="1.22.0")
    monkeypatch.setattr(sys, "argv", [main.__module__, *argv])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == (1 if refused else 0)
    assert refused in capsys.readouterr().err


def test_every_floor_that_is_declared_can_be_read() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    read = (project["dependencies"], *(extras[name] for name in ("export", "cpu", "gpu", "report")))
    for text in (text for asked in read for text in asked):
        assert REQUIREMENT.fullmatch(text), text
        assert re.search(r">=[\d.]+$", text)
