"""The README's commands run as they are written, and its links lead somewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from wanexport.lora.random_adapter import cross_attention_targets, seeded_adapter
from wanexport.model.config import DEMO, list_configs, load_config
from wanexport.model.names import module_shapes

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def shell_blocks() -> list[list[str]]:
    blocks = re.findall(r"^```sh\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [[line.split("  #")[0].strip() for line in block.splitlines()] for block in blocks]


def test_first_command_and_first_number_come_early() -> None:
    lines = README.splitlines()
    first_command = next(i for i, line in enumerate(lines) if line.startswith("make demo"))
    first_ratio = next(i for i, line in enumerate(lines) if re.match(r"\s+full\s+fp32", line))
    assert first_command < 20
    assert first_ratio < 40


def test_make_targets_exist() -> None:
    first, _ = shell_blocks()
    assert [line.split()[:2] for line in first] == [["make", "demo"], ["make", "test"]]
    for line in first:
        done = subprocess.run([*line.split(), "-n"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def test_commands_run_as_written(tmp_path: Path) -> None:
    arch = load_config(DEMO).architecture
    lora = tmp_path / "my_lora.safetensors"
    seeded_adapter(lora, module_shapes(arch), cross_attention_targets(arch), 16, seed=7)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONWARNINGS": "", "COLUMNS": "100"}
    _, use = shell_blocks()
    outputs = {}
    for command in use:
        done = subprocess.run(
            ["bash", "-euc", command],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr}"
        outputs[" ".join(command.split()[:2])] = done.stdout
    assert "at best on H100" in outputs["wanexport estimate"]
    assert "rank 16" in outputs["wanrt info"]
    assert "random weights" in outputs["wanrt bench"]
    assert "[random weights]" in outputs["wanrt report"]
    assert "<svg" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)]+)\)", README))))
def test_links_resolve(target: str) -> None:
    assert (ROOT / target).exists()


def test_every_configuration_and_folder_is_mentioned() -> None:
    for folder in (
        "configs", "docs", "export", "runtime", "engines", "benchmarks", "tests", "tools",
    ):  # fmt: skip
        assert f"`{folder}/`" in README
    assert len(list_configs()) == 8
